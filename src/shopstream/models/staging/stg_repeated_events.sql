{# Repeats are few: their keys are found first, over two columns, so that only they are ranked. #}
{% set columns = lake_columns() %}
-- depends_on: {{ ref('stg_bot_intervals') }}, even where no verdict is on a bot
with keys as (
    select event_time, event_id
    from {{ source('lake', 'events') }}
    group by event_time, event_id
    having count(*) > 1
),

ranked as (
    select
        {% for column in columns %}events.{{ column }}, {% endfor %}
        {{ is_bot() }} as is_bot,
        row_number() over (
            partition by events.event_time, events.event_id
            order by events.arrival_time, events.event_type, events.product_id, events.user_id, events.price
        ) as place,
        count(*) over (partition by events.event_time, events.event_id) as copies
    from {{ source('lake', 'events') }} as events
    inner join keys on keys.event_time = events.event_time and keys.event_id = events.event_id
    {{- bot_joins('events') }}
)

select
    {% for column in columns %}{{ lake_column(column) }},
    {% endfor %}is_bot,
    copies
from ranked
where place = 1
