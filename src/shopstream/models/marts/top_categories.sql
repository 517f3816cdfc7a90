with shoppers as (
    select
        shop_weekday,
        shop_hour,
        category,
        user_id,
        {{ count_events('view') }} as views,
        {{ count_events('cart') }} as carts,
        {{ count_events('purchase') }} as purchases,
        {{ revenue() }} as revenue
    from {{ ref('stg_events') }}
    group by shop_weekday, shop_hour, category, user_id
),

categories as (
    select
        shop_weekday,
        shop_hour,
        category,
        count(*) as visitors,
        cast(sum(views) as bigint) as views,
        cast(sum(carts) as bigint) as carts,
        cast(sum(purchases) as bigint) as purchases,
        cast(sum(revenue) as decimal(18, 4)) as revenue
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
    cast(row_number() over (
        partition by categories.shop_weekday, categories.shop_hour
        order by categories.views desc, categories.visitors desc, categories.revenue desc, categories.category
    ) as integer) as rank,
    categories.category,
    categories.views,
    {{ ratio(
        'categories.views',
        'sum(categories.views) over (partition by categories.shop_weekday, categories.shop_hour)'
    ) }} as views_share,
    categories.visitors,
    categories.carts,
    categories.purchases,
    categories.revenue,
    slot_days.days
from categories
inner join slot_days
    on slot_days.shop_weekday = categories.shop_weekday and slot_days.shop_hour = categories.shop_hour
