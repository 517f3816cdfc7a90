with visits as (
    select
        shop_date,
        user_id,
        user_session,
        cast(sum(case when is_bot then 0 else 1 end) as bigint) as events,
        count(*) as events_with_bots,
        {%- for ending, with_bots in [('', false), ('_with_bots', true)] %}
        {{ count_events('view', with_bots) }} as views{{ ending }},
        {{ count_events('cart', with_bots) }} as carts{{ ending }},
        {{ count_events('purchase', with_bots) }} as purchases{{ ending }},
        {{ revenue(with_bots) }} as revenue{{ ending }},
        {%- endfor %}
        min(shop_time) as first_seen_at,
        max(shop_time) as last_seen_at
    from {{ ref('stg_events') }}
    group by shop_date, user_id, user_session
),

days as (
    select
        shop_date,
        user_id,
        {%- for ending, _ in [('', false), ('_with_bots', true)] %}
        cast(sum(case when events{{ ending }} > 0 then 1 else 0 end) as bigint) as sessions{{ ending }},
        cast(sum(events{{ ending }}) as bigint) as events{{ ending }},
        cast(sum(views{{ ending }}) as bigint) as views{{ ending }},
        cast(sum(carts{{ ending }}) as bigint) as carts{{ ending }},
        cast(sum(purchases{{ ending }}) as bigint) as purchases{{ ending }},
        cast(sum(revenue{{ ending }}) as decimal(18, 4)) as revenue{{ ending }},
        {%- endfor %}
        min(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at
    from visits
    group by shop_date, user_id
),

first_days as (
    select
        user_id,
        min(case when events > 0 then shop_date end) as first_shop_date,
        min(shop_date) as first_shop_date_with_bots
    from days
    group by user_id
)

select
    days.shop_date,
    days.user_id,
    {%- for ending, _ in [('', false), ('_with_bots', true)] %}
    days.sessions{{ ending }},
    days.events{{ ending }},
    days.views{{ ending }},
    days.carts{{ ending }},
    days.purchases{{ ending }},
    days.revenue{{ ending }},
    {%- endfor %}
    days.first_seen_at,
    days.last_seen_at,
    coalesce(days.shop_date = first_days.first_shop_date, false) as is_new,
    days.shop_date = first_days.first_shop_date_with_bots as is_new_with_bots
from days
inner join first_days on first_days.user_id = days.user_id
