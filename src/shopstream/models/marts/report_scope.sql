select
    cast('{{ var("timezone") | replace("'", "''") }}' as varchar) as timezone,
    {{ plain_timestamp(run_started_at.strftime("%Y-%m-%d %H:%M:%S")) }} as built_at_utc,
    count(*) as events,
    (select count(*) from {{ source('lake', 'events') }}) - count(*) as duplicates,
    cast(coalesce(sum(case when is_bot then 1 else 0 end), 0) as bigint) as bot_events,
    count(distinct case when not is_bot then user_id end) as visitors,
    count(distinct user_id) as visitors_with_bots,
    (select count(distinct concat(actor_kind, ' ', actor)) from {{ ref('stg_bot_intervals') }}) as bot_actors,
    min(shop_time) as first_event_at,
    max(shop_time) as last_event_at,
    min(shop_date) as first_shop_date,
    max(shop_date) as last_shop_date
from {{ ref('stg_events') }}
