-- The five most viewed categories by weekday and hour.
select
    weekday_name,
    hour,
    rank,
    category,
    views,
    round(100 * views_share, 1) as views_percent,
    visitors,
    purchases,
    revenue
from top_categories
where rank <= 5
order by weekday, hour, rank
