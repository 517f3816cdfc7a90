with shoppers as (
    select
        shop_weekday,
        shop_hour,
        category,
        user_id
        {%- for ending, with_bots in [('', false), ('_with_bots', true)] %},
        {{ count_events('view', with_bots) }} as views{{ ending }},
        {{ count_events('cart', with_bots) }} as carts{{ ending }},
        {{ count_events('purchase', with_bots) }} as purchases{{ ending }},
        {{ revenue(with_bots) }} as revenue{{ ending }}
        {%- endfor %},
        min(case when is_bot then 1 else 0 end) as is_bot_only
    from {{ ref('stg_events') }}
    group by shop_weekday, shop_hour, category, user_id
),

categories as (
    select
        shop_weekday,
        shop_hour,
        category,
        cast(sum(1 - is_bot_only) as bigint) as visitors,
        count(*) as visitors_with_bots
        {%- for ending, _ in [('', false), ('_with_bots', true)] %},
        cast(sum(views{{ ending }}) as bigint) as views{{ ending }},
        cast(sum(carts{{ ending }}) as bigint) as carts{{ ending }},
        cast(sum(purchases{{ ending }}) as bigint) as purchases{{ ending }},
        cast(sum(revenue{{ ending }}) as decimal(18, 4)) as revenue{{ ending }}
        {%- endfor %}
    from shoppers
    group by shop_weekday, shop_hour, category
),

slot_days as (
    select shop_weekday, shop_hour, count(distinct shop_date) as days
    from {{ ref('stg_events') }}
    group by shop_weekday, shop_hour
)

select
    categories.shop_weekday as weekday,
    case categories.shop_weekday
        when 1 then 'Monday' when 2 then 'Tuesday' when 3 then 'Wednesday' when 4 then 'Thursday'
        when 5 then 'Friday' when 6 then 'Saturday' else 'Sunday'
    end as weekday_name,
    categories.shop_hour as hour,
    categories.category,
    slot_days.days
    {%- for ending, _ in [('', false), ('_with_bots', true)] %},
    cast(row_number() over (
        partition by categories.shop_weekday, categories.shop_hour
        order by
            categories.views{{ ending }} desc,
            categories.visitors{{ ending }} desc,
            categories.revenue{{ ending }} desc,
            categories.category
    ) as integer) as rank{{ ending }},
    categories.views{{ ending }},
    {{ ratio(
        'categories.views' ~ ending,
        'sum(categories.views' ~ ending ~ ') over (partition by categories.shop_weekday, categories.shop_hour)'
    ) }} as views_share{{ ending }},
    categories.visitors{{ ending }},
    categories.carts{{ ending }},
    categories.purchases{{ ending }},
    categories.revenue{{ ending }}
    {%- endfor %}
from categories
inner join slot_days
    on slot_days.shop_weekday = categories.shop_weekday and slot_days.shop_hour = categories.shop_hour
