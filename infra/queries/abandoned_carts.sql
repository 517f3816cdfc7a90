-- Abandoned cart lines of the last week, by value: worth a reminder.
select
    user_id,
    product_id,
    category,
    brand,
    value,
    times_carted,
    last_carted_at
from abandoned_carts
where
    state = 'abandoned'
    and not is_bot
    and shop_date >= (select date_add('day', -7, max(shop_date)) from abandoned_carts)
order by value desc, last_carted_at desc
limit 500
