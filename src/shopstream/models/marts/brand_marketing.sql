with shoppers as (
    select
        brand,
        user_id,
        {{ count_events('view') }} as views,
        {{ count_events('cart') }} as carts,
        {{ count_events('purchase') }} as purchases,
        {{ revenue() }} as revenue,
        sum(price) as price_seen,
        count(*) as events
    from {{ ref('stg_events') }}
    where brand is not null
    group by brand, user_id
),

brands as (
    select
        brand,
        count(*) as visitors,
        cast(sum(case when purchases > 0 then 1 else 0 end) as bigint) as buyers,
        cast(sum(views) as bigint) as views,
        cast(sum(carts) as bigint) as carts,
        cast(sum(purchases) as bigint) as purchases,
        cast(sum(revenue) as decimal(18, 4)) as revenue,
        -- what one buyer leaves; for a brand nobody bought yet, what one piece costs on average
        case
            when sum(purchases) > 0 then cast(sum(revenue) as double) / sum(case when purchases > 0 then 1 else 0 end)
            else cast(sum(price_seen) as double) / sum(events)
        end as value_per_buyer
    from shoppers
    group by brand
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
        conversion,
        visitors,
        row_number() over (order by conversion) as by_conversion,
        row_number() over (order by visitors) as by_visitors,
        count(*) over () as brands
    from rated
    where is_big_enough
),

-- the plain median, spelled out: engines differ in what their median functions promise
medians as (
    select
        avg(case when by_conversion * 2 between brands and brands + 2 then conversion end) as median_conversion,
        avg(case when by_visitors * 2 between brands and brands + 2 then cast(visitors as double) end)
            as median_visitors
    from ordered
),

judged as (
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
    cross join medians
)

select
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
    {{ ratio('views', 'sum(views) over ()') }} as views_share,
    carts,
    purchases,
    {{ ratio('purchases', 'sum(purchases) over ()') }} as purchases_share,
    revenue
from judged
