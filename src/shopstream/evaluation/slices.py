"""The events of a shop, in time slices."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from shopstream.clock import to_ms
from shopstream.detection.baseline_builder import build_baselines
from shopstream.evaluation.plan import Shop
from shopstream.events.columns import REES46_COLUMNS
from shopstream.simulation.injection import Scenario, World
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings

__all__ = ["BATCH_EVENTS", "batches", "cut", "learn", "synthesis_of", "world_of"]

BATCH_EVENTS = 300_000
_BATCH_TIME = timedelta(hours=6)


def synthesis_of(
    shop: Shop, between: tuple[datetime, datetime] | None = None, scenarios: Iterable[Scenario] = ()
) -> Synthesis:
    """The traffic of a shop in a time range; None: history and test days."""
    return Synthesis(_settings(shop, scenarios), between)


def batches(synthesis: Synthesis) -> Iterator[pa.Table]:
    """Its events in tables of at most six hours and BATCH_EVENTS events: each table has a fixed cost."""
    held: list[pa.Table] = []
    since: datetime | None = None
    for table in synthesis.batches(BATCH_EVENTS):
        first, last = (
            (table.column("event_time")[place].as_py() for place in (0, -1)) if table.num_rows else (None, None)
        )
        if first is None or last is None:
            continue
        if held and (sum(map(len, held)) + len(table) > BATCH_EVENTS or (since and last - since > _BATCH_TIME)):
            yield pa.concat_tables(held)
            held, since = [], None
        held.append(table)
        since = since or first
    if held:
        yield pa.concat_tables(held)


def world_of(shop: Shop) -> World:
    """A new world of the shop, to draw and build one attack."""
    return _settings(shop, ()).world()


def _settings(shop: Shop, scenarios: Iterable[Scenario]) -> SynthesisSettings:
    days = shop.history_days + shop.days
    return SynthesisSettings(
        start=shop.history_from,
        days=days,
        events=shop.events_a_day * days,
        products=shop.products,
        seed=shop.seed,
        tracker=shop.tracker,
        scenarios=tuple(scenarios),
    )


def cut(tables: Iterable[pa.Table], moments: Iterable[datetime]) -> Iterator[tuple[pa.Table, datetime | None]]:
    """Tables cut at moments, in order of time, each with the moment at its end (None: no moment).

    Each moment comes once, with the last events before it, which may be none.
    """
    waiting = sorted(moments)
    for table in tables:
        rest = table
        while waiting and rest.num_rows:
            times = rest.column("event_time").cast(pa.int64()).to_numpy() // 1000
            place = int(np.searchsorted(times, to_ms(waiting[0])))
            if place == len(times):
                break
            yield rest.slice(0, place), waiting.pop(0)
            rest = rest.slice(place)
        if rest.num_rows:
            yield rest, None
    for moment in waiting:
        yield pa.table({}), moment


def learn(shop: Shop, path: Path) -> None:
    """Build the shop's baselines from its history, as `shopstream baselines build` does, and save them."""
    columns = list(REES46_COLUMNS)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1; SET memory_limit = '3GB'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET temp_directory = ?", [str(path.parent / "spill")])
        made = False
        until = shop.history_from + timedelta(days=shop.history_days)
        for table in synthesis_of(shop, (shop.history_from, until)).batches(BATCH_EVENTS):
            connection.register("incoming", table.select(columns))
            connection.execute("INSERT INTO events FROM incoming" if made else "CREATE TABLE events AS FROM incoming")
            connection.unregister("incoming")
            made = True
        build_baselines(connection, "events").save(path)
