{# What names the actor in an event of the lake. ip_net and agent_hash are derived as the engine derives them. #}
{% macro actor_column(kind, events) -%}
    {%- if kind == 'ip_net' -%} {{ ip_net(events ~ '.ip') }}
    {%- elif kind == 'agent_hash' -%} {{ agent_hash(events ~ '.user_agent') }}
    {%- else -%} {{ events }}.{{ kind }}
    {%- endif -%}
{%- endmacro %}
