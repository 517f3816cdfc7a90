{# Only duplicates are ranked, since they are few. #}
{% set columns = lake_columns() %}
with ranked as (
    select
        {% for column in columns %}{{ lake_value('events', column) }}, {% endfor %}
        marks.is_bot,
        marks.copies,
        row_number() over (
            partition by events.event_time, events.event_id
            order by events.arrival_time, events.event_type, events.product_id, events.user_id, events.price
        ) as place
    from {{ source('lake', 'events') }} as events
    inner join {{ ref('stg_event_marks') }} as marks
        on marks.event_time = {{ instant('events.event_time') }} and marks.event_id = events.event_id
    where marks.copies > 1
)

select
    {% for column in columns %}{{ lake_column(column) }},
    {% endfor %}is_bot,
    copies
from ranked
where place = 1
