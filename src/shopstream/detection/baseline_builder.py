"""Builds baselines from a table of past events."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from shopstream.clock import DAY_MS, HOUR_MS
from shopstream.detection.baseline import SLOT_MS, SLOTS, Baselines, KeyRate, SeriesProfile, Share
from shopstream.detection.product_reference import PRODUCT_SCHEMA, tail_sql
from shopstream.errors import StateError
from shopstream.events.columns import EventType

_HEAD_SHARE: Final = 0.93
"""The busiest products that together get this share of the events are the head, all others the tail."""
_SAMPLE: Final = 10
"""Shares are measured in every tenth minute."""
_PICK: Final = 3
_HELD_OUT: Final = 7
"""Every seventh hour does not help to choose the tail, and alone measures its share. A visit views the same product
repeatedly, so minutes between those that choose would measure too small a share."""
_USER_SAMPLE: Final = 8
_KEYS: Final = {"category_id": 400, "product_id": 400}
_LEVEL_SLOTS: Final = 5.0
"""Memory of the level in slots, like that of `detection.forecast`."""
_LEAST: Final = 50.0
_SMOOTH_DAYS: Final = 5
_HOLDOUT_DAYS: Final = 2
_UNKNOWN_ERROR: Final = 0.15
_FLAT: Final = 50_000.0
"""Pseudo-count that draws an hour's share of the tail towards that of the whole day: it hardly varies by hour."""
_PRICE_POINT: Final = 0.02
"""A price is usual if at least this share of the product's events had it."""


def build_baselines(connection: duckdb.DuckDBPyConnection, events: str) -> Baselines:
    """Baselines of a table of events.

    Args:
        connection: where the table is.
        events: name of a table or view with the event columns; at least a day of history, better some weeks.

    Raises:
        StateError: there is less than an hour of history.
    """
    history = _History(connection, events)
    return Baselines(
        from_ms=history.from_ms,
        until_ms=history.until_ms,
        events=history.events,
        series=history.series(),
        products=history.products(),
        shares=history.shares(),
        keys={column: history.keys(column, most) for column, most in _KEYS.items()},
    )


class _History:
    def __init__(self, connection: duckdb.DuckDBPyConnection, events: str) -> None:
        self._connection = connection
        self._events = events
        first, last, count = self._rows(
            f"SELECT epoch_ms(min(event_time)), epoch_ms(max(event_time)), count(*) FROM {events}"
        )[0]
        if not count or last - first < 3_600_000:  # noqa: PLR2004  an hour
            raise StateError(
                f"expected an hour of history or more to build baselines from, got {count:,} events; "
                "name an earlier --from, or let the detectors learn while they run"
            )
        self.from_ms, self.until_ms, self.events = int(first), int(last) + 1, int(count)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def series(self) -> dict[str, SeriesProfile]:
        """Profiles of the site and of each event type."""
        types = [kind.value for kind in EventType]
        columns = ", ".join(f"count(*) FILTER (event_type = '{kind}')" for kind in types)
        rows = self._rows(
            f"SELECT epoch_ms(event_time) // {SLOT_MS} AS slot, count(*), {columns} FROM {self._events} GROUP BY slot"
        )
        # The first and the last slot count when all but a minute of them lies inside.
        first, last = -(-(self.from_ms - 60_000) // SLOT_MS), (self.until_ms + 60_000) // SLOT_MS
        counts = {row[0]: row[1:] for row in rows}
        profiles = {}
        for place, name in enumerate(["site", *(f"event_type={kind}" for kind in types)]):
            values = {slot: float(counts.get(slot, [0] * (len(types) + 1))[place]) for slot in range(first, last)}
            if any(values.values()) and len(values) >= SLOTS:
                profiles[name] = _profile(values)
        return profiles

    def products(self) -> pa.Table:
        """Usual prices, and whether a product is in the tail, by the hours that are not held out."""
        table: pa.Table = self._connection.sql(f"""
            WITH points AS (
                SELECT product_id, price, count(*) AS n,
                       count(*) FILTER (epoch_ms(event_time) // {HOUR_MS} % {_HELD_OUT} <> {_PICK}) AS ranked
                FROM {self._events} GROUP BY product_id, price),
            totals AS (SELECT *, sum(n) OVER (PARTITION BY product_id) AS whole FROM points),
            known AS (
                SELECT product_id, sum(ranked) AS ranked,
                       min(price) FILTER (price > 0 AND n >= {_PRICE_POINT} * whole)::DOUBLE AS low,
                       max(price) FILTER (price > 0 AND n >= {_PRICE_POINT} * whole)::DOUBLE AS high
                FROM totals GROUP BY product_id)
            SELECT product_id, low, high,
                   sum(ranked) OVER (ORDER BY ranked DESC, product_id) - ranked
                       >= {_HEAD_SHARE} * sum(ranked) OVER () AS tail
            FROM known ORDER BY product_id""").to_arrow_table()
        self._connection.register("baseline_products", table)
        return table.cast(PRODUCT_SCHEMA)

    def shares(self) -> dict[str, Share]:
        """Shares of the traffic; call it after `products`."""
        sample = f"""(SELECT event_time, epoch_ms(event_time) AS t, event_type, category_id, product_id, user_id,
                             brand, category_code, user_session
                      FROM {self._events} WHERE epoch_ms(event_time) // 60000 % {_SAMPLE} = {_PICK})"""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE baseline_sample AS FROM {sample}")
        shares: dict[str, Share] = {}
        for suffix, length_ms in (("10s", 10_000), ("60s", 60_000)):
            shares |= self._window_shares(suffix, length_ms)
        new_users = self._new_users()
        shares["new_users_10s"] = shares["new_users_60s"] = new_users
        self._connection.execute("DROP TABLE baseline_sample")
        self._connection.unregister("baseline_products")
        return shares

    def _window_shares(self, suffix: str, length_ms: int) -> dict[str, Share]:
        """Name → share, from hits and totals by window."""
        tail = tail_sql(
            """(SELECT t, category_id, product_id, user_id FROM baseline_sample
                 LEFT JOIN baseline_products USING (product_id) WHERE tail IS DISTINCT FROM FALSE)""",
            length_ms,
        )
        kind = "spread" if suffix == "10s" else "tail"
        rows = self._rows(f"""
            SELECT w, n, users, buys, buyers, purchases, no_brand, no_category_code, no_session,
                   coalesce(least({kind}_users, {kind}_products), 0)
            FROM (SELECT t - t % {length_ms} AS w, count(*) AS n, count(DISTINCT user_id) AS users,
                         count(*) FILTER (event_type IN ('cart', 'purchase')) AS buys,
                         count(DISTINCT user_id) FILTER (event_type IN ('cart', 'purchase')) AS buyers,
                         count(*) FILTER (event_type = 'purchase') AS purchases,
                         count(*) FILTER (brand IS NULL) AS no_brand,
                         count(*) FILTER (category_code IS NULL) AS no_category_code,
                         count(*) FILTER (user_session IS NULL) AS no_session
                  FROM baseline_sample GROUP BY w)
            LEFT JOIN ({tail}) USING (w) ORDER BY w""")
        held_out = [r for r in rows if r[0] // HOUR_MS % _HELD_OUT == _PICK]
        of_events = {"users": 2, "purchases": 5, "no_brand": 6, "no_category_code": 7, "no_session": 8}
        if suffix == "10s":
            of_events = {"users": 2, "buys": 3}
        shares = {f"{name}_{suffix}": _share([(r[0], r[at], r[1]) for r in rows]) for name, at in of_events.items()}
        if held_out:  # a history of a few hours may have no such hour
            of = 1 if suffix == "10s" else 2
            shares[f"tail_{suffix}"] = _share([(r[0], r[9], r[of]) for r in held_out], _FLAT)
        if suffix == "60s":
            shares["buyers_60s"] = _share([(r[0], r[4], r[2]) for r in rows])
        return shares

    def _new_users(self) -> Share:
        """Share of events whose user had none in the 24 hours before; from every eighth user, after the first day."""
        rows = self._rows(f"""
            SELECT t - t % 3600000 AS w, count(*) FILTER (gap IS NULL OR gap > {DAY_MS}), count(*)
            FROM (SELECT t, t - lag(t) OVER (PARTITION BY user_id ORDER BY t) AS gap
                  FROM (SELECT epoch_ms(event_time) AS t, user_id FROM {self._events}
                        WHERE hash(user_id) % {_USER_SAMPLE} = 0))
            WHERE t >= {min(self.from_ms + DAY_MS, self.until_ms - DAY_MS // 8)} GROUP BY w ORDER BY w""")
        return _share(rows)

    def keys(self, column: str, most: int) -> dict[str, KeyRate]:
        """Rates of the busiest values of a column."""
        rows = self._rows(f"""
            WITH days AS (SELECT {column} AS k, epoch_ms(event_time) // {DAY_MS} AS d, count(*) AS n
                          FROM {self._events} GROUP BY k, d),
            sums AS (SELECT d, sum(n) AS whole FROM days GROUP BY d),
            busiest AS (SELECT k FROM days GROUP BY k ORDER BY sum(n) DESC, k LIMIT {most})
            SELECT k, d, n, whole FROM days JOIN sums USING (d) SEMI JOIN busiest USING (k) ORDER BY k, d""")
        grouped: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for key, _, count, whole in rows:
            grouped[str(key)].append((float(count), float(whole)))
        rates = {}
        for key, days in grouped.items():
            share = sum(count for count, _ in days) / sum(whole for _, whole in days)
            beyond = [
                ((count - share * whole) ** 2 - 2 * share * whole) / (share * whole) ** 2 for count, whole in days
            ]
            rates[key] = KeyRate(share, math.sqrt(max(0.0, statistics.fmean(beyond))))
        return dict(sorted(rates.items(), key=lambda item: (-item[1].share, item[0])))


def _profile(values: Mapping[int, float]) -> SeriesProfile:
    """A profile from counts by slot since the epoch, in order and without gaps."""
    days: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for slot, count in values.items():
        days[slot // SLOTS].append((slot, count))
    whole = {day: sum(count for _, count in slots) for day, slots in days.items() if len(slots) == SLOTS}
    used = {day: total for day, total in whole.items() if total > 0.25 * statistics.median(whole.values() or [0])}
    weekdays = _weekdays(used)
    shape = _shape(days, used, weekdays)
    held = sorted(used)[-_HOLDOUT_DAYS:] if len(used) > _HOLDOUT_DAYS + 1 else []
    error = _UNKNOWN_ERROR
    if held:
        kept = {day: total for day, total in used.items() if day not in held}
        error = _error(values, _shape(days, kept, weekdays), weekdays, held)
    return SeriesProfile(tuple(shape), tuple(weekdays), error, float(len(used)))


def _weekdays(used: Mapping[int, float]) -> list[float]:
    """Factors, Monday first; drawn towards 1 if there are few weeks."""
    if len(used) < 7:  # noqa: PLR2004  a week
        return [1.0] * 7
    typical = statistics.median(used.values())
    factors = [1.0] * 7
    for weekday in range(7):
        totals = [total for day, total in used.items() if SeriesProfile.weekday(day * DAY_MS) == weekday]
        if totals:
            trust = len(totals) / (len(totals) + 2)
            factors[weekday] = 1 + (min(max(statistics.median(totals) / typical, 0.5), 1.5) - 1) * trust
    mean = statistics.fmean(factors)
    return [factor / mean for factor in factors]


def _shape(
    days: Mapping[int, Sequence[tuple[int, float]]], used: Mapping[int, float], weekdays: Sequence[float]
) -> list[float]:
    """Events per second of an average day in each slot, slightly smoothed."""
    chosen: list[list[float]] = [[] for _ in range(SLOTS)]
    typical = statistics.median(used.values()) if used else 0.0
    for day, slots in days.items():
        if used and day not in used:
            continue
        # Each day is scaled to a typical one: a promotion has the shape of other days.
        factor = used[day] / typical / weekdays[SeriesProfile.weekday(day * DAY_MS)] if used else 1.0
        for slot, count in slots:
            chosen[slot % SLOTS].append(
                count / (SLOT_MS / 1_000) / weekdays[SeriesProfile.weekday(day * DAY_MS)] / factor
            )
    middle = statistics.median if len(used) >= _SMOOTH_DAYS else statistics.fmean
    raw = [middle(one) if one else 0.0 for one in chosen]
    return [(raw[place - 1] + 2 * raw[place] + raw[(place + 1) % SLOTS]) / 4 for place in range(SLOTS)]


def _error(
    values: Mapping[int, float], shape: Sequence[float], weekdays: Sequence[float], held: Sequence[int]
) -> float:
    """Relative error of slots beyond chance, on days that the shape did not see."""
    profile = SeriesProfile(tuple(shape), tuple(weekdays), 0.0, 0.0)
    level, beyond = 1.0, []
    first = min(held)
    for slot, count in values.items():
        due = profile.rate(slot * SLOT_MS + SLOT_MS // 2) * SLOT_MS / 1_000
        if slot // SLOTS >= first - 1 and due > 0:
            if slot // SLOTS in held and due * level >= _LEAST:
                beyond.append(((count - due * level) ** 2 - due * level) / (due * level) ** 2)
            level += (min(count / due, 3.0) - level) / _LEVEL_SLOTS
    beyond.sort()
    kept = beyond[: max(1, len(beyond) * 98 // 100)] if beyond else []
    return math.sqrt(max(0.0, statistics.fmean(kept))) if kept else _UNKNOWN_ERROR


def _share(rows: Sequence[tuple[int, float, float]], keep: float = 200.0) -> Share:
    """A share from (start of a window, hits, total); an hour with few events keeps to the share of the whole day."""
    hits, of = [0.0] * 24, [0.0] * 24
    for start_ms, hit, total in rows:
        hour = start_ms // 3_600_000 % 24
        hits[hour] += hit
        of[hour] += total
    overall = sum(hits) / max(sum(of), 1.0)
    hours = [(hits[hour] + overall * keep) / (of[hour] + keep) for hour in range(24)]
    share = Share(tuple(hours), 0.0)
    beyond = []
    for start_ms, hit, total in rows:
        usual = share.at(start_ms)
        if total * usual >= 5:  # noqa: PLR2004  fewer prove nothing
            beyond.append(((hit / total - usual) ** 2 - usual * (1 - usual) / total) / usual**2)
    return Share(tuple(hours), math.sqrt(max(0.0, statistics.fmean(beyond))) if beyond else 0.1)
