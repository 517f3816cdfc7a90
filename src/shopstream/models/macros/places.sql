{# Tables that only serve the build live in a database of their own on DuckDB, which is dropped afterwards: the reports
   file holds the marts and nothing else. Elsewhere all models share the target's database. #}
{% macro generate_database_name(custom_database_name=none, node=none) -%}
    {%- if target.type == 'duckdb' and node and not node.original_file_path.startswith('marts') -%}
        staging
    {%- else -%}
        {{ custom_database_name or target.database }}
    {%- endif -%}
{%- endmacro %}
