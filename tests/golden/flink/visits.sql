SET 'table.local-time-zone' = 'UTC';

SET 'table.exec.state.ttl' = '172800000 ms';

CREATE TEMPORARY VIEW `visits_1` AS
SELECT *, LAG(t, 1) OVER w AS visit_t
FROM `events`
WINDOW w AS (PARTITION BY user_id, user_session, product_id ORDER BY event_time);

CREATE TEMPORARY VIEW `visits_2` AS
SELECT *,
  NOT COALESCE(t - visit_t <= 3600000, FALSE) AS `first_visit`
FROM `visits_1`;

CREATE TEMPORARY VIEW `visits_events` AS
SELECT * FROM `visits_2`
WHERE `user_id` IS NOT NULL AND `user_session` IS NOT NULL;

SELECT * FROM (
  SELECT
    `user_id`,
    `user_session`,
    `window_start`,
    `window_end`,
    MIN(`t`) AS `first_event_ms`,
    MAX(`t`) AS `last_event_ms`,
    COUNT(*) FILTER(WHERE `first_visit`) AS `pages`
  FROM TABLE(SESSION(TABLE `visits_events` PARTITION BY (`user_id`, `user_session`), DESCRIPTOR(`event_time`), INTERVAL '30' MINUTE))
  GROUP BY `user_id`, `user_session`, `window_start`, `window_end`
)
WHERE `pages` > 3;
