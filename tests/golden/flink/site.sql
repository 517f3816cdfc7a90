SET 'table.local-time-zone' = 'UTC';

SELECT * FROM (
  SELECT
    `window_start`,
    `window_end`,
    MIN(`t`) AS `first_event_ms`,
    MAX(`t`) AS `last_event_ms`,
    COUNT(*) AS `events`,
    (CAST(SUM(`price`) AS DOUBLE) / NULLIF(COUNT(`price`), 0)) AS `mean`
  FROM TABLE(TUMBLE(TABLE `events`, DESCRIPTOR(`event_time`), INTERVAL '10.500' SECOND))
  GROUP BY `window_start`, `window_end`
);
