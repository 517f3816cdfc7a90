{# A condition that every row must meet; null counts as a failure. #}
{% test holds_for_every_row(model, condition) %}
select *
from {{ model }}
where not coalesce({{ condition }}, false)
{% endtest %}
