with steps as (
    select
        user_id,
        product_id,
        event_time,
        event_id,
        event_type,
        category_id,
        category,
        brand,
        price,
        shop_time,
        is_bot,
        -- within one second, cart events come before removals and purchases
        case event_type when 'cart' then 0 when 'remove_from_cart' then 1 else 2 end as step
    from {{ ref('stg_events') }}
    where event_type in ('cart', 'remove_from_cart', 'purchase')
),

after_purchase as (
    select
        *,
        max(case when event_type = 'purchase' then event_time end) over (
            partition by user_id, product_id
            order by event_time, step, event_id
            rows between unbounded preceding and 1 preceding
        ) as last_purchase_time
    from steps
),

without_echoes as (
    select *
    from after_purchase
    where
        event_type <> 'cart'
        or last_purchase_time is null
        or event_time > last_purchase_time + interval '{{ var("cart_echo_minutes") | int }}' minute
),

numbered as (
    select
        *,
        -- every removal or purchase ends a line, so the number of earlier ends identifies the line of a row
        1 + coalesce(
            sum(case when event_type = 'cart' then 0 else 1 end) over (
                partition by user_id, product_id
                order by event_time, step, event_id
                rows between unbounded preceding and 1 preceding
            ),
            0
        ) as line
    from without_echoes
),

latest_first as (
    select
        *,
        row_number() over (
            partition by user_id, product_id, line
            order by step, event_time desc, event_id desc
        ) as place
    from numbered
),

lines as (
    select
        user_id,
        product_id,
        line,
        max(case when place = 1 then category_id end) as category_id,
        max(case when place = 1 then category end) as category,
        max(case when place = 1 then brand end) as brand,
        max(case when place = 1 then price end) as value,
        max(case when place = 1 and is_bot then 1 else 0 end) = 1 as is_bot,
        {{ count_events('cart') }} as times_carted,
        min(case when event_type = 'cart' then event_time end) as first_carted_time,
        max(case when event_type = 'cart' then event_time end) as last_carted_time,
        max(case when place = 1 then shop_time end) as last_carted_at,
        max(case when event_type <> 'cart' then event_type end) as ended_by,
        max(case when event_type <> 'cart' then event_time end) as ended_time,
        max(case when event_type <> 'cart' then shop_time end) as ended_at,
        max(case when event_type <> 'cart' and is_bot then 1 else 0 end) = 1 as is_ended_by_bot
    from latest_first
    group by user_id, product_id, line
    having sum(case when event_type = 'cart' then 1 else 0 end) > 0
),

lake_clock as (
    select max(event_time) as last_event_time
    from {{ ref('stg_events') }}
)

select
    lines.user_id,
    lines.product_id,
    cast(row_number() over (
        partition by lines.user_id, lines.product_id
        order by lines.line
    ) as integer) as line,
    lines.category_id,
    lines.category,
    lines.brand,
    lines.value,
    lines.times_carted,
    lines.first_carted_time,
    lines.last_carted_time,
    {{ shop_time('lines.first_carted_time') }} as first_carted_at,
    lines.last_carted_at,
    lines.ended_at,
    case
        when lines.ended_by = 'purchase' then 'bought'
        when lines.ended_by = 'remove_from_cart' then 'removed'
        when lake_clock.last_event_time
            >= lines.last_carted_time + interval '{{ var("abandon_after_minutes") | int }}' minute
            then 'abandoned'
        else 'open'
    end as state,
    lines.is_bot,
    lines.is_ended_by_bot
from lines
cross join lake_clock
