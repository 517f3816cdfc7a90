{# Columns of the lake that reports need, in order: without client address, client software and page address. #}
{% macro lake_columns() %}
{{ return([
    'event_time', 'event_type', 'product_id', 'category_id', 'category_code', 'brand', 'price', 'user_id',
    'user_session', 'event_id', 'arrival_time', 'is_late',
]) }}
{% endmacro %}

{# A column as reports read it: an empty text becomes null. #}
{% macro lake_column(name) -%}
    {%- if name in ['category_code', 'brand', 'user_session'] -%} nullif({{ name }}, '') as {{ name }}
    {%- else -%} {{ name }}
    {%- endif -%}
{%- endmacro %}

{# A column of the lake's table, as models use it. #}
{% macro lake_value(events, name) -%}
    {%- if name in ['event_time', 'arrival_time'] -%} {{ instant(events ~ '.' ~ name) }} as {{ name }}
    {%- else -%} {{ events }}.{{ name }}
    {%- endif -%}
{%- endmacro %}
