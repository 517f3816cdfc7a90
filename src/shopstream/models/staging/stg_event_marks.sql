-- depends_on: {{ ref('stg_bot_intervals') }}, even if there are no bot verdicts
with repeated as (
    select {{ instant('events.event_time') }} as event_time, events.event_id, count(*) as copies
    from {{ source('lake', 'events') }} as events
    group by {{ instant('events.event_time') }}, events.event_id
    having count(*) > 1
),

marks as (
    select event_time, event_id, copies, 0 as is_bot
    from repeated
    {%- for kind in var('bot_actor_kinds').split() %}
    union all
    select {{ instant('events.event_time') }} as event_time, events.event_id, 1 as copies, 1 as is_bot
    from {{ source('lake', 'events') }} as events
    inner join {{ ref('stg_bot_intervals') }} as bots
        on bots.{{ 'user_id' if kind == 'user_id' else 'actor' }} = {{ actor_column(kind, 'events') }}
        and bots.from_time <= {{ instant('events.event_time') }}
        and bots.until_time > {{ instant('events.event_time') }}
    where bots.actor_kind = '{{ kind }}'
    {%- endfor %}
)

select event_time, event_id, max(copies) as copies, max(is_bot) = 1 as is_bot
from marks
group by event_time, event_id
