with days as (
    select
        shop_date,
        count(*) as visitors,
        sum(sessions) as sessions,
        sum(case when purchases > 0 then 1 else 0 end) as buyers,
        sum(case when is_new then 1 else 0 end) as new_visitors,
        sum(events) as events,
        sum(views) as views,
        sum(carts) as carts,
        sum(purchases) as purchases,
        sum(revenue) as revenue,
        min(first_seen_at) as first_event_at,
        max(last_seen_at) as last_event_at
    from {{ ref('int_visitor_days') }}
    group by shop_date
)

select
    shop_date,
    visitors,
    cast(sessions as bigint) as sessions,
    cast(buyers as bigint) as buyers,
    {{ ratio('buyers', 'visitors') }} as buyer_share,
    cast(new_visitors as bigint) as new_visitors,
    cast(visitors - new_visitors as bigint) as returning_visitors,
    cast(row_number() over (order by shop_date) - 1 as integer) as history_days,
    cast(events as bigint) as events,
    cast(views as bigint) as views,
    cast(carts as bigint) as carts,
    cast(purchases as bigint) as purchases,
    cast(revenue as decimal(18, 4)) as revenue,
    first_event_at,
    last_event_at
from days
