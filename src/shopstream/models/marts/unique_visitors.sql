with days as (
    select
        shop_date,
        {%- for ending, _ in [('', false), ('_with_bots', true)] %}
        sum(case when events{{ ending }} > 0 then 1 else 0 end) as visitors{{ ending }},
        sum(sessions{{ ending }}) as sessions{{ ending }},
        sum(case when purchases{{ ending }} > 0 then 1 else 0 end) as buyers{{ ending }},
        sum(case when is_new{{ ending }} then 1 else 0 end) as new_visitors{{ ending }},
        sum(events{{ ending }}) as events{{ ending }},
        sum(views{{ ending }}) as views{{ ending }},
        sum(carts{{ ending }}) as carts{{ ending }},
        sum(purchases{{ ending }}) as purchases{{ ending }},
        sum(revenue{{ ending }}) as revenue{{ ending }},
        {%- endfor %}
        min(first_seen_at) as first_event_at,
        max(last_seen_at) as last_event_at
    from {{ ref('int_visitor_days') }}
    group by shop_date
)

select
    shop_date,
    cast(row_number() over (order by shop_date) - 1 as integer) as history_days,
    first_event_at,
    last_event_at
    {%- for ending, _ in [('', false), ('_with_bots', true)] %},
    cast(visitors{{ ending }} as bigint) as visitors{{ ending }},
    cast(sessions{{ ending }} as bigint) as sessions{{ ending }},
    cast(buyers{{ ending }} as bigint) as buyers{{ ending }},
    {{ ratio('buyers' ~ ending, 'visitors' ~ ending) }} as buyer_share{{ ending }},
    cast(new_visitors{{ ending }} as bigint) as new_visitors{{ ending }},
    cast(visitors{{ ending }} - new_visitors{{ ending }} as bigint) as returning_visitors{{ ending }},
    cast(events{{ ending }} as bigint) as events{{ ending }},
    cast(views{{ ending }} as bigint) as views{{ ending }},
    cast(carts{{ ending }} as bigint) as carts{{ ending }},
    cast(purchases{{ ending }} as bigint) as purchases{{ ending }},
    cast(revenue{{ ending }} as decimal(18, 4)) as revenue{{ ending }}
    {%- endfor %}
from days
