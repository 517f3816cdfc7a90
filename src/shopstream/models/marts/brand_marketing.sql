with shoppers as (
    select
        brand,
        user_id,
        {%- for ending, with_bots in [('', false), ('_with_bots', true)] %}
        {{ count_events('view', with_bots) }} as views{{ ending }},
        {{ count_events('cart', with_bots) }} as carts{{ ending }},
        {{ count_events('purchase', with_bots) }} as purchases{{ ending }},
        {{ revenue(with_bots) }} as revenue{{ ending }},
        {%- endfor %}
        sum(case when is_bot then 0 else price end) as price_seen,
        sum(price) as price_seen_with_bots,
        sum(case when is_bot then 0 else 1 end) as events,
        count(*) as events_with_bots
    from {{ ref('stg_events') }}
    where brand is not null
    group by brand, user_id
),

brand_figures as (
    select
        brand
        {%- for ending, _ in [('', false), ('_with_bots', true)] %},
        cast(sum(case when events{{ ending }} > 0 then 1 else 0 end) as bigint) as visitors{{ ending }},
        cast(sum(case when purchases{{ ending }} > 0 then 1 else 0 end) as bigint) as buyers{{ ending }},
        cast(sum(views{{ ending }}) as bigint) as views{{ ending }},
        cast(sum(carts{{ ending }}) as bigint) as carts{{ ending }},
        cast(sum(purchases{{ ending }}) as bigint) as purchases{{ ending }},
        cast(sum(revenue{{ ending }}) as decimal(18, 4)) as revenue{{ ending }},
        -- revenue per buyer; for a brand without buyers, its average price
        case
            when sum(purchases{{ ending }}) > 0
                then
                    cast(sum(revenue{{ ending }}) as double)
                    / sum(case when purchases{{ ending }} > 0 then 1 else 0 end)
            else {{ ratio('sum(price_seen' ~ ending ~ ')', 'sum(events' ~ ending ~ ')') }}
        end as value_per_buyer{{ ending }}
        {%- endfor %}
    from shoppers
    group by brand
),

-- every brand gets two verdicts: without bots and with bots
brands as (
    {%- for ending, with_bots in [('', false), ('_with_bots', true)] %}
    select
        {{ with_bots }} as with_bots,
        brand,
        visitors{{ ending }} as visitors,
        buyers{{ ending }} as buyers,
        views{{ ending }} as views,
        carts{{ ending }} as carts,
        purchases{{ ending }} as purchases,
        revenue{{ ending }} as revenue,
        value_per_buyer{{ ending }} as value_per_buyer
    from brand_figures
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
),

rated as (
    select
        *,
        {{ ratio('buyers', 'visitors') }} as conversion,
        {{ wilson_bound('buyers', 'visitors', '-') }} as conversion_low,
        {{ wilson_bound('buyers', 'visitors', '+') }} as conversion_high,
        visitors >= {{ var("min_brand_visitors") | int }} as is_big_enough
    from brands
),

ordered as (
    select
        with_bots,
        conversion,
        visitors,
        row_number() over (partition by with_bots order by conversion) as by_conversion,
        row_number() over (partition by with_bots order by visitors) as by_visitors,
        count(*) over (partition by with_bots) as brands
    from rated
    where is_big_enough
),

-- the exact median, since the engines' median functions differ
medians as (
    select
        with_bots,
        avg(case when by_conversion * 2 between brands and brands + 2 then conversion end) as median_conversion,
        avg(case when by_visitors * 2 between brands and brands + 2 then cast(visitors as double) end)
            as median_visitors
    from ordered
    group by with_bots
),

compared as (
    select
        rated.*,
        medians.median_conversion,
        medians.median_visitors,
        case
            when not rated.is_big_enough then 'too_few_visitors'
            when rated.conversion_high < medians.median_conversion then 'seen_not_bought'
            when rated.conversion_low > medians.median_conversion and rated.visitors < medians.median_visitors
                then 'bought_not_seen'
            else 'in_line'
        end as verdict
    from rated
    left join medians on medians.with_bots = rated.with_bots
),

explained as (
    select
        with_bots,
        brand,
        verdict in ('seen_not_bought', 'bought_not_seen') as needs_marketing,
        verdict,
        case verdict
            when 'too_few_visitors' then concat(
                'seen by ', {{ with_thousands('visitors') }}, ' visitors: fewer than the ',
                {{ with_thousands(var("min_brand_visitors") | int) }}, ' a verdict needs'
            )
            when 'bought_not_seen' then concat(
                {{ as_percent('conversion') }}, ' of its visitors bought; shop median ',
                {{ as_percent('median_conversion') }}, '; but seen by only ', {{ with_thousands('visitors') }},
                ' visitors; shop median ', {{ with_thousands('cast(round(median_visitors) as bigint)') }}
            )
            else concat(
                'seen by ', {{ with_thousands('visitors') }}, ' visitors, ', {{ as_percent('conversion') }},
                ' bought; shop median ', {{ as_percent('median_conversion') }}
            )
        end as reason,
        cast(round(
            case verdict
                when 'seen_not_bought' then (median_conversion - conversion) * visitors * value_per_buyer
                when 'bought_not_seen' then (median_visitors - visitors) * conversion * value_per_buyer
                else 0
            end,
            2
        ) as decimal(18, 2)) as missed_revenue,
        visitors,
        buyers,
        conversion,
        conversion_low,
        conversion_high,
        median_conversion,
        median_visitors,
        views,
        {{ ratio('views', 'sum(views) over (partition by with_bots)') }} as views_share,
        carts,
        purchases,
        {{ ratio('purchases', 'sum(purchases) over (partition by with_bots)') }} as purchases_share,
        revenue
    from compared
)

{%- set figures = [
    'needs_marketing', 'verdict', 'reason', 'missed_revenue', 'visitors', 'buyers', 'conversion', 'conversion_low',
    'conversion_high', 'median_conversion', 'median_visitors', 'views', 'views_share', 'carts', 'purchases',
    'purchases_share', 'revenue',
] %}

select
    excluding.brand
    {%- for figure in figures %},
    excluding.{{ figure }}
    {%- endfor %}
    {%- for figure in figures %},
    including.{{ figure }} as {{ figure }}_with_bots
    {%- endfor %}
from explained as excluding
inner join explained as including on including.brand = excluding.brand
where not excluding.with_bots and including.with_bots
