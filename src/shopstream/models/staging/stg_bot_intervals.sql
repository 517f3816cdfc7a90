with given as (
    select
        verdicts.actor_kind,
        verdicts.actor,
        verdicts.verdict,
        {{ instant('verdicts.from_time') }} as from_time,
        {{ instant('verdicts.until_time') }} as until_time
    from {{ source('lake', 'verdicts') }} as verdicts
),

verdicts as (
    select
        given.actor_kind,
        given.actor,
        given.verdict,
        -- a shopper is a bot for the whole day; an address or a client may be shared, and is a bot only for the period
        case
            when given.actor_kind in ('user_id', 'user_session')
                then {{ day_start('cast(' ~ shop_time('given.from_time') ~ ' as date)') }}
            else given.from_time
        end as from_time,
        case
            when given.actor_kind in ('user_id', 'user_session')
                then {{ day_start(
                    'cast(' ~ shop_time("(given.until_time - interval '0.001' second)") ~ " as date) + interval '1' day"
                ) }}
            else given.until_time
        end as until_time
    from given
),

bots as (
    select bots.actor_kind, bots.actor, bots.from_time, bots.until_time
    from verdicts as bots
    where
        bots.verdict = 'bot'
        and not exists (
            select 1
            from verdicts as humans
            where
                humans.verdict = 'human'
                and humans.actor_kind = bots.actor_kind
                and humans.actor = bots.actor
                and humans.from_time < bots.until_time
                and humans.until_time > bots.from_time
        )
),

followed as (
    select
        *,
        max(until_time) over (
            partition by actor_kind, actor
            order by from_time, until_time
            rows between unbounded preceding and 1 preceding
        ) as covered_until
    from bots
),

numbered as (
    select
        *,
        sum(case when covered_until >= from_time then 0 else 1 end) over (
            partition by actor_kind, actor
            order by from_time, until_time
            rows between unbounded preceding and current row
        ) as place
    from followed
)

select
    actor_kind,
    actor,
    case when actor_kind = 'user_id' then cast(actor as bigint) end as user_id,
    min(from_time) as from_time,
    max(until_time) as until_time
from numbered
group by actor_kind, actor, place
