{# Repeats are few: their keys are found first, so that only they are ranked and the rest passes straight through. #}
{% set columns = [
    'event_time', 'event_type', 'product_id', 'category_id', 'category_code', 'brand', 'price', 'user_id',
    'user_session', 'event_id', 'arrival_time', 'is_late',
] %}
with source as (
    select
        event_time,
        event_type,
        product_id,
        category_id,
        nullif(category_code, '') as category_code,
        nullif(brand, '') as brand,
        price,
        user_id,
        nullif(user_session, '') as user_session,
        event_id,
        arrival_time,
        is_late
    from {{ source('lake', 'events') }}
),

repeated as (
    select event_time, event_id
    from source
    group by event_time, event_id
    having count(*) > 1
),

ranked as (
    select
        {% for column in columns %}source.{{ column }}, {% endfor %}
        row_number() over (
            partition by source.event_time, source.event_id
            order by source.arrival_time, source.event_type, source.product_id, source.user_id, source.price
        ) as place
    from source
    inner join repeated on repeated.event_time = source.event_time and repeated.event_id = source.event_id
),

deduplicated as (
    select {% for column in columns %}source.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
    from source
    left join repeated on repeated.event_time = source.event_time and repeated.event_id = source.event_id
    where repeated.event_id is null
    union all
    select {{ columns | join(', ') }}
    from ranked
    where place = 1
),

in_shop_time as (
    select {{ columns | join(', ') }}, {{ shop_time('event_time') }} as shop_time
    from deduplicated
)

select
    {{ columns | join(',\n    ') }},
    coalesce(category_code, concat('(no code) ', cast(category_id as varchar))) as category,
    shop_time,
    cast(shop_time as date) as shop_date,
    cast({{ iso_weekday('shop_time') }} as integer) as shop_weekday,
    cast(extract(hour from shop_time) as integer) as shop_hour
from in_shop_time
