select
    user_id,
    product_id,
    category,
    brand,
    value,
    times_carted,
    first_carted_at,
    last_carted_at,
    cast(last_carted_at as date) as shop_date,
    state,
    is_bot
from {{ ref('int_cart_lines') }}
where state in ('abandoned', 'open')
