{# A view: the lake's files are read when needed, and never copied. #}
{{ config(materialized='view') }}
{% set columns = lake_columns() %}
with single_events as (
    select
        {% for column in columns %}{{ lake_value('events', column) }},
        {% endfor %}coalesce(marks.is_bot, false) as is_bot
    from {{ source('lake', 'events') }} as events
    left join {{ ref('stg_event_marks') }} as marks
        on marks.event_time = {{ instant('events.event_time') }} and marks.event_id = events.event_id
    where coalesce(marks.copies, 1) = 1
),

events as (
    select
        {% for column in columns %}{{ lake_column(column) }},
        {% endfor %}is_bot
    from single_events
    union all
    select
        {{ columns | join(',\n        ') }},
        is_bot
    from {{ ref('stg_repeated_events') }}
),

in_shop_time as (
    select {{ columns | join(', ') }}, is_bot, {{ shop_time('event_time') }} as shop_time
    from events
)

select
    {{ columns | join(',\n    ') }},
    coalesce(category_code, concat('(no code) ', cast(category_id as varchar))) as category,
    shop_time,
    cast(shop_time as date) as shop_date,
    cast({{ iso_weekday('shop_time') }} as integer) as shop_weekday,
    cast(extract(hour from shop_time) as integer) as shop_hour,
    is_bot
from in_shop_time
