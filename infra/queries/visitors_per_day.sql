-- Visitors per day, new and returning, and their purchases; bots excluded.
select
    shop_date,
    visitors,
    new_visitors,
    returning_visitors,
    buyers,
    round(100 * buyer_share, 2) as buyers_percent,
    purchases,
    revenue,
    visitors_with_bots - visitors as bots
from unique_visitors
order by shop_date desc
limit 90
