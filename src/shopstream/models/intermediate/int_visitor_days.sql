with visits as (
    select
        shop_date,
        user_id,
        user_session,
        count(*) as events,
        {{ count_events('view') }} as views,
        {{ count_events('cart') }} as carts,
        {{ count_events('purchase') }} as purchases,
        {{ revenue() }} as revenue,
        min(shop_time) as first_seen_at,
        max(shop_time) as last_seen_at
    from {{ ref('stg_events') }}
    group by shop_date, user_id, user_session
),

days as (
    select
        shop_date,
        user_id,
        count(*) as sessions,
        cast(sum(events) as bigint) as events,
        cast(sum(views) as bigint) as views,
        cast(sum(carts) as bigint) as carts,
        cast(sum(purchases) as bigint) as purchases,
        cast(sum(revenue) as decimal(18, 4)) as revenue,
        min(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at
    from visits
    group by shop_date, user_id
),

first_days as (
    select user_id, min(shop_date) as first_shop_date
    from days
    group by user_id
)

select
    days.shop_date,
    days.user_id,
    days.sessions,
    days.events,
    days.views,
    days.carts,
    days.purchases,
    days.revenue,
    days.first_seen_at,
    days.last_seen_at,
    days.shop_date = first_days.first_shop_date as is_new
from days
inner join first_days on first_days.user_id = days.user_id
