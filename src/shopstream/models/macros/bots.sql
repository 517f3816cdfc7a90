{# Which events are bots': those of an actor with the verdict bot, in an interval of stg_bot_intervals. Only kinds of
   actor that have a verdict are looked up: a join of all events is not free. #}

{# What names the actor in an event of the lake. The last two are the engine's derived columns of the same name. #}
{% macro actor_column(kind, events) -%}
    {%- if kind == 'ip_net' -%} {{ ip_net(events ~ '.ip') }}
    {%- elif kind == 'agent_hash' -%} {{ agent_hash(events ~ '.user_agent') }}
    {%- else -%} {{ events }}.{{ kind }}
    {%- endif -%}
{%- endmacro %}

{# Intervals of one actor do not overlap, so an event finds one of them at most. #}
{% macro bot_joins(events) -%}
    {%- for kind in var('bot_actor_kinds').split() %}
    left join {{ ref('stg_bot_intervals') }} as bot_{{ kind }}
        on bot_{{ kind }}.actor_kind = '{{ kind }}'
        and bot_{{ kind }}.{{ 'user_id' if kind == 'user_id' else 'actor' }} = {{ actor_column(kind, events) }}
        and bot_{{ kind }}.from_time <= {{ events }}.event_time
        and bot_{{ kind }}.until_time > {{ events }}.event_time
    {%- endfor %}
{%- endmacro %}

{% macro is_bot() -%}
    {%- for kind in var('bot_actor_kinds').split() -%}
    {{ ' or ' if not loop.first }}bot_{{ kind }}.actor is not null
    {%- else -%} false
    {%- endfor -%}
{%- endmacro %}

