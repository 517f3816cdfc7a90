{# Columns that identify the actor of an event. ip_net and agent_hash are computed as in the engine. #}
{% macro actor_column(kind, events) -%}
    {%- if kind == 'ip_net' -%} {{ ip_net(events ~ '.ip') }}
    {%- elif kind == 'agent_hash' -%} {{ agent_hash(events ~ '.user_agent') }}
    {%- else -%} {{ events }}.{{ kind }}
    {%- endif -%}
{%- endmacro %}
