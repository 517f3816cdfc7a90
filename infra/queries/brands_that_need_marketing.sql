-- Brands that are viewed but not bought, or bought but rarely seen, with the reason in numbers.
select
    brand,
    verdict,
    reason,
    missed_revenue,
    visitors,
    round(100 * conversion, 2) as conversion_percent,
    round(100 * median_conversion, 2) as median_conversion_percent
from brand_marketing
where needs_marketing
order by missed_revenue desc, brand
