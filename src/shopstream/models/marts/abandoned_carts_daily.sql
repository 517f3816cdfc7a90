with carted as (
    select
        cast(last_carted_at as date) as shop_date,
        count(*) as cart_lines,
        sum(case when state = 'bought' then 1 else 0 end) as bought,
        sum(case when state = 'removed' then 1 else 0 end) as removed,
        sum(case when state = 'open' then 1 else 0 end) as still_open,
        sum(case when state = 'abandoned' then 1 else 0 end) as abandoned,
        sum(case when state = 'bought' then value else 0 end) as bought_value,
        sum(case when state = 'abandoned' then value else 0 end) as abandoned_value
    from {{ ref('int_cart_lines') }}
    group by cast(last_carted_at as date)
),

bought as (
    select cast(ended_at as date) as shop_date, count(*) as purchases_with_cart
    from {{ ref('int_cart_lines') }}
    where state = 'bought'
    group by cast(ended_at as date)
)

select
    visitors.shop_date,
    coalesce(carted.cart_lines, 0) as cart_lines,
    cast(coalesce(carted.bought, 0) as bigint) as bought,
    cast(coalesce(carted.removed, 0) as bigint) as removed,
    cast(coalesce(carted.still_open, 0) as bigint) as still_open,
    cast(coalesce(carted.abandoned, 0) as bigint) as abandoned,
    {{ ratio('carted.abandoned', 'carted.cart_lines - carted.still_open') }} as abandoned_share,
    cast(coalesce(carted.bought_value, 0) as decimal(18, 4)) as bought_value,
    cast(coalesce(carted.abandoned_value, 0) as decimal(18, 4)) as abandoned_value,
    visitors.purchases,
    visitors.purchases - coalesce(bought.purchases_with_cart, 0) as purchases_without_cart
from {{ ref('unique_visitors') }} as visitors
left join carted on carted.shop_date = visitors.shop_date
left join bought on bought.shop_date = visitors.shop_date
