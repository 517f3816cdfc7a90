{# Differences between DuckDB and Athena (Trino). Models call these macros and are otherwise plain SQL.

   Athena reads instants (timestamp with time zone) but keeps them in no table or view that it makes, and its Iceberg
   tables take microseconds and no other precision: there, instants are timestamp(6) in UTC from where the lake is read.
   https://docs.aws.amazon.com/athena/latest/ug/querying-iceberg-supported-data-types.html #}

{% macro instant(column) %}{{ return(adapter.dispatch('instant', 'shopstream')(column)) }}{% endmacro %}

{# A time of the lake, as models use it. #}
{% macro default__instant(column) -%} cast({{ column }} at time zone 'UTC' as timestamp(6)) {%- endmacro %}

{% macro duckdb__instant(column) -%} {{ column }} {%- endmacro %}


{% macro plain_timestamp(text) %}{{ return(adapter.dispatch('plain_timestamp', 'shopstream')(text)) }}{% endmacro %}

{# 'YYYY-MM-DD hh:mm:ss' as a time without zone. #}
{% macro default__plain_timestamp(text) -%} cast('{{ text }}' as timestamp(6)) {%- endmacro %}

{% macro duckdb__plain_timestamp(text) -%} cast('{{ text }}' as timestamp) {%- endmacro %}


{% macro shop_time(instant) %}{{ return(adapter.dispatch('shop_time', 'shopstream')(instant)) }}{% endmacro %}

{# Wall-clock time in the shop's time zone, without zone. #}
{% macro default__shop_time(instant) -%}
    cast(with_timezone({{ instant }}, 'UTC') at time zone '{{ var("timezone") | replace("'", "''") }}' as timestamp(6))
{%- endmacro %}

{% macro duckdb__shop_time(instant) -%}
    cast({{ instant }} at time zone '{{ var("timezone") | replace("'", "''") }}' as timestamp)
{%- endmacro %}


{% macro day_start(day) %}{{ return(adapter.dispatch('day_start', 'shopstream')(day)) }}{% endmacro %}

{# The instant at which a day of the shop begins. #}
{% macro default__day_start(day) -%}
    cast(
        with_timezone(cast({{ day }} as timestamp(6)), '{{ var("timezone") | replace("'", "''") }}') at time zone 'UTC'
        as timestamp(6)
    )
{%- endmacro %}

{% macro duckdb__day_start(day) -%}
    (cast({{ day }} as timestamp) at time zone '{{ var("timezone") | replace("'", "''") }}')
{%- endmacro %}


{% macro ip_net(ip) %}{{ return(adapter.dispatch('ip_net', 'shopstream')(ip)) }}{% endmacro %}

{# As in the engine: the /24 of an IPv4 address, the /48 of an IPv6 address. #}
{% macro default__ip_net(ip) -%}
    case
        when strpos({{ ip }}, ':') > 0
            then nullif(
                trim(trailing ':' from regexp_extract(lower({{ ip }}), '^([0-9a-f]+:[0-9a-f]+:[0-9a-f]*)', 1)), ''
            ) || '::/48'
        else nullif(regexp_extract({{ ip }}, '^([0-9]+[.][0-9]+[.][0-9]+)[.]', 1), '') || '.0/24'
    end
{%- endmacro %}


{% macro agent_hash(agent) %}{{ return(adapter.dispatch('agent_hash', 'shopstream')(agent)) }}{% endmacro %}

{# As in the engine: 16 hex digits of the MD5. #}
{% macro default__agent_hash(agent) -%} substr(lower(to_hex(md5(to_utf8({{ agent }})))), 1, 16) {%- endmacro %}

{% macro duckdb__agent_hash(agent) -%} substr(md5({{ agent }}), 1, 16) {%- endmacro %}


{% macro iso_weekday(day) %}{{ return(adapter.dispatch('iso_weekday', 'shopstream')(day)) }}{% endmacro %}

{# 1 = Monday … 7 = Sunday. #}
{% macro default__iso_weekday(day) -%} extract(day_of_week from {{ day }}) {%- endmacro %}

{% macro duckdb__iso_weekday(day) -%} extract(isodow from {{ day }}) {%- endmacro %}


{% macro with_thousands(number) %}{{ return(adapter.dispatch('with_thousands', 'shopstream')(number)) }}{% endmacro %}

{# 12034 → '12,034'. #}
{% macro default__with_thousands(number) -%} format('%,d', {{ number }}) {%- endmacro %}

{% macro duckdb__with_thousands(number) -%} format('{:,}', {{ number }}) {%- endmacro %}


{% macro as_percent(ratio) %}{{ return(adapter.dispatch('as_percent', 'shopstream')(ratio)) }}{% endmacro %}

{# 0.0188 → '1.9 %'; rates below one in a thousand keep two decimals, or they would all read 0.0. #}
{% macro default__as_percent(ratio) -%}
    format(case when {{ ratio }} > 0 and {{ ratio }} < 0.001 then '%.2f %%' else '%.1f %%' end, 100 * {{ ratio }})
{%- endmacro %}

{% macro duckdb__as_percent(ratio) -%}
    printf(case when {{ ratio }} > 0 and {{ ratio }} < 0.001 then '%.2f %%' else '%.1f %%' end, 100 * {{ ratio }})
{%- endmacro %}
