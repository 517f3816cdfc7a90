with carted as (
    select
        cast(last_carted_at as date) as shop_date
        {%- for ending, condition in [('', 'not is_bot'), ('_with_bots', '1 = 1')] %},
        sum(case when {{ condition }} then 1 else 0 end) as cart_lines{{ ending }},
        sum(case when state = 'bought' and {{ condition }} then 1 else 0 end) as bought{{ ending }},
        sum(case when state = 'removed' and {{ condition }} then 1 else 0 end) as removed{{ ending }},
        sum(case when state = 'open' and {{ condition }} then 1 else 0 end) as still_open{{ ending }},
        sum(case when state = 'abandoned' and {{ condition }} then 1 else 0 end) as abandoned{{ ending }},
        sum(case when state = 'bought' and {{ condition }} then value else 0 end) as bought_value{{ ending }},
        sum(case when state = 'abandoned' and {{ condition }} then value else 0 end) as abandoned_value{{ ending }}
        {%- endfor %}
    from {{ ref('int_cart_lines') }}
    group by cast(last_carted_at as date)
),

bought as (
    select
        cast(ended_at as date) as shop_date,
        sum(case when is_ended_by_bot then 0 else 1 end) as purchases_with_cart,
        count(*) as purchases_with_cart_with_bots
    from {{ ref('int_cart_lines') }}
    where state = 'bought'
    group by cast(ended_at as date)
)

select
    visitors.shop_date
    {%- for ending, _ in [('', 'not is_bot'), ('_with_bots', '1 = 1')] %},
    cast(coalesce(carted.cart_lines{{ ending }}, 0) as bigint) as cart_lines{{ ending }},
    cast(coalesce(carted.bought{{ ending }}, 0) as bigint) as bought{{ ending }},
    cast(coalesce(carted.removed{{ ending }}, 0) as bigint) as removed{{ ending }},
    cast(coalesce(carted.still_open{{ ending }}, 0) as bigint) as still_open{{ ending }},
    cast(coalesce(carted.abandoned{{ ending }}, 0) as bigint) as abandoned{{ ending }},
    {{ ratio('carted.abandoned' ~ ending, 'carted.cart_lines' ~ ending ~ ' - carted.still_open' ~ ending) }}
        as abandoned_share{{ ending }},
    cast(coalesce(carted.bought_value{{ ending }}, 0) as decimal(18, 4)) as bought_value{{ ending }},
    cast(coalesce(carted.abandoned_value{{ ending }}, 0) as decimal(18, 4)) as abandoned_value{{ ending }},
    visitors.purchases{{ ending }},
    cast(visitors.purchases{{ ending }} - coalesce(bought.purchases_with_cart{{ ending }}, 0) as bigint)
        as purchases_without_cart{{ ending }}
    {%- endfor %}
from {{ ref('unique_visitors') }} as visitors
left join carted on carted.shop_date = visitors.shop_date
left join bought on bought.shop_date = visitors.shop_date
