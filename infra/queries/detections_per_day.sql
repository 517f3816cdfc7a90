-- Detections per day (UTC) and rule, each window once, with allow-listed ones counted separately.
with latest as (
    select
        rule_id,
        severity,
        start_time,
        allowed_by,
        row_number() over (partition by detection_id order by final desc, last_event_time desc) as place
    from detections
)

select
    cast(start_time at time zone 'UTC' as date) as day,
    rule_id,
    severity,
    count(*) as detections,
    count(allowed_by) as allowed
from latest
where place = 1
group by 1, 2, 3
order by 1 desc, 4 desc
limit 500
