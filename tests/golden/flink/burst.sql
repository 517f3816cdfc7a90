SET 'table.local-time-zone' = 'UTC';

CREATE TEMPORARY VIEW `burst_events` AS
SELECT * FROM `events`
WHERE `user_id` IS NOT NULL;

SELECT * FROM (
  SELECT
    `user_id`,
    `window_start`,
    `window_end`,
    MIN(`t`) AS `first_event_ms`,
    MAX(`t`) AS `last_event_ms`,
    COUNT(*) AS `events`
  FROM TABLE(HOP(TABLE `burst_events`, DESCRIPTOR(`event_time`), INTERVAL '1' SECOND, INTERVAL '10' SECOND))
  GROUP BY `user_id`, `window_start`, `window_end`
)
WHERE `events` > 15;
