-- Rejected records per day (UTC) and reason.
select
    cast(arrival_time at time zone 'UTC' as date) as day,
    reason,
    count(*) as records
from dead_letters
group by 1, 2
order by 1 desc, 3 desc
limit 500
