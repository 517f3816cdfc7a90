{# Measures that several models share. #}

{% macro count_events(event_type, with_bots=true) -%}
    cast(sum(case when event_type = '{{ event_type }}'{{ '' if with_bots else ' and not is_bot' }} then 1 else 0 end) as bigint)
{%- endmacro %}

{# Sum of prices of purchases: a purchase event is one piece. #}
{% macro revenue(with_bots=true) -%}
    cast(sum(
        case when event_type = 'purchase'{{ '' if with_bots else ' and not is_bot' }} then price else 0 end
    ) as decimal(18, 4))
{%- endmacro %}

{# A share between 0 and 1; null if the total is 0. #}
{% macro ratio(part, whole) -%}
    (cast({{ part }} as double) / nullif(cast({{ whole }} as double), 0))
{%- endmacro %}

{# One end of the 99 % Wilson score interval of hits out of trials: a rate from few trials gets a wide interval.
   99 % and not 95 %, because thousands of brands are tested at once. #}
{% macro wilson_bound(hits, trials, sign) -%}
    {%- set z = 2.575829 -%}
    {%- set p = ratio(hits, trials) -%}
    {%- set n = 'cast(' ~ trials ~ ' as double)' -%}
    (({{ p }} + {{ z * z / 2 }} / {{ n }}
      {{ sign }} {{ z }} * sqrt({{ p }} * (1 - {{ p }}) / {{ n }} + {{ z * z / 4 }} / ({{ n }} * {{ n }})))
     / (1 + {{ z * z }} / {{ n }}))
{%- endmacro %}
