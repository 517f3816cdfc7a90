-- Abandoned carts per day and their value.
select
    shop_date,
    cart_lines,
    bought,
    abandoned,
    round(100 * abandoned_share, 1) as abandoned_percent,
    abandoned_value
from abandoned_carts_daily
order by shop_date desc
limit 90
