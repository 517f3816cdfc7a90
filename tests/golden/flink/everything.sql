SET 'table.local-time-zone' = 'UTC';

SET 'table.exec.state.ttl' = '172800000 ms';

CREATE TEMPORARY VIEW `everything_1` AS
SELECT *, LAG(t, 1) OVER w AS before1_t, LAG(t, 2) OVER w AS before2_t,
  LAG(product_id, 1) OVER w AS before1_product
FROM `events`
WINDOW w AS (PARTITION BY user_id ORDER BY event_time);

CREATE TEMPORARY VIEW `everything_2` AS
SELECT *, LAG(t, 1) OVER w AS visit_t
FROM `everything_1`
WINDOW w AS (PARTITION BY user_id, user_session, product_id ORDER BY event_time);

CREATE TEMPORARY VIEW `everything_3` AS
SELECT *, MAX(CASE WHEN event_type = 'view' THEN t END) OVER w AS newest_view_t
FROM `everything_2`
WINDOW w AS (PARTITION BY user_id, product_id ORDER BY event_time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `everything_4` AS
SELECT *, LAG(newest_view_t, 1) OVER w AS view_t
FROM `everything_3`
WINDOW w AS (PARTITION BY user_id, product_id ORDER BY event_time);

CREATE TEMPORARY VIEW `everything_5` AS
SELECT *,
  CASE WHEN t - before1_t <= 86400000 THEN t - before1_t END AS `gap_ms`,
  CASE WHEN t - before1_t <= 86400000 AND before1_t - before2_t <= 86400000 THEN before1_t - before2_t END AS `previous_gap_ms`,
  CASE WHEN t - before1_t <= 86400000 THEN before1_product END AS `previous_product_id`,
  NOT COALESCE(t - before1_t <= 86400000, FALSE) AS `new_user`,
  NOT COALESCE(t - visit_t <= 3600000, FALSE) AS `first_visit`,
  COALESCE(t - view_t <= 3600000, FALSE) AS `viewed`,
  CASE WHEN POSITION(':' IN ip) > 0 THEN TRIM(TRAILING ':' FROM REGEXP_EXTRACT(LOWER(ip), '^([0-9a-f]+:[0-9a-f]+:[0-9a-f]*)', 1)) || '::/48' ELSE REGEXP_EXTRACT(ip, '^([0-9]+[.][0-9]+[.][0-9]+)[.]', 1) || '.0/24' END AS `ip_net`,
  LEFT(MD5(user_agent), 16) AS `agent_hash`,
  MOD(t / 3600000, 24) AS `hour_of_day`,
  t / 3600000 AS `hour`
FROM `everything_4`;

CREATE TEMPORARY VIEW `everything_events` AS
SELECT * FROM `everything_5`
WHERE `user_id` IS NOT NULL AND `ip_net` IS NOT NULL AND (`event_type` IN ('view', 'cart') AND NOT `new_user` AND `brand` LIKE 'a%');

SELECT * FROM (
  SELECT
    `user_id`,
    `ip_net`,
    `window_start`,
    `window_end`,
    MIN(`t`) AS `first_event_ms`,
    MAX(`t`) AS `last_event_ms`,
    CAST(SUM(TRY_CAST(CASE WHEN ABS(CASE WHEN (CAST(`gap_ms` AS DOUBLE) / NULLIF(`previous_gap_ms`, 0)) > 0 THEN LN(CAST(`gap_ms` AS DOUBLE) / NULLIF(`previous_gap_ms`, 0)) END) < 1 THEN 2.5 ELSE -1 END AS DECIMAL(38, 9))) AS DOUBLE) AS `evidence`,
    CAST(SUM(TRY_CAST(ABS(CASE WHEN (CAST(`gap_ms` AS DOUBLE) / NULLIF(`previous_gap_ms`, 0)) > 0 THEN LN(CAST(`gap_ms` AS DOUBLE) / NULLIF(`previous_gap_ms`, 0)) END) AS DECIMAL(38, 9))) FILTER(WHERE MOD(`gap_ms`, 7) > 0) AS DOUBLE) AS `spread`,
    (CAST(SUM(`gap_ms`) FILTER(WHERE `viewed`) AS DOUBLE) / NULLIF(COUNT(`gap_ms`) FILTER(WHERE `viewed`), 0)) AS `seen`,
    COUNT(DISTINCT `hour`) FILTER(WHERE `first_visit`) AS `hours`,
    MAX(COALESCE(LEAST(COALESCE(LEAST(`gap_ms`, 5), `gap_ms`, 5), `hour_of_day`), COALESCE(LEAST(`gap_ms`, 5), `gap_ms`, 5), `hour_of_day`)) AS `least`,
    CAST(SUM(TRY_CAST(FLOOR(CASE WHEN (`price`) >= 0 THEN SQRT(`price`) END) AS DECIMAL(38, 9))) AS DOUBLE) AS `roots`,
    MAX(`previous_product_id`) AS `walk`,
    MIN(`agent_hash`) AS `agent`
  FROM TABLE(HOP(TABLE `everything_events`, DESCRIPTOR(`event_time`), INTERVAL '1' HOUR, INTERVAL '100' HOUR(3)))
  GROUP BY `user_id`, `ip_net`, `window_start`, `window_end`
)
WHERE `hours` > 5 AND CAST(`evidence` AS DOUBLE) / NULLIF(`hours`, 0) >= 16;
