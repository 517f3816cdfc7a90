"""Holds events back until the watermark passes, sorts them, and computes their stateful derived columns.

All events before the watermark have arrived, so sorting them by (event_time, event_id) gives the order of a batch
query, and one pass with the state of each key gives the same values. NumPy is more than twice as fast here as SQL,
whose window functions would sort all rows three times (ADR 10).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.engine.derived_columns import (
    ACTOR_HORIZON_MS,
    DERIVED_FIELDS,
    TEXTS,
    VISIT_HORIZON_MS,
    batch_columns,
    stateful,
)
from shopstream.engine.keyed_state import NEVER_MS, Ints, KeyedState
from shopstream.engine.tables import ORDERED
from shopstream.events.schema import WIRE_SCHEMA

_PENDING: Final = "derive_pending"
_GAPS: Final = frozenset({"gap_ms", "previous_gap_ms", "previous_product_id", "new_user"})
_SCHEMA = pa.schema(
    [
        *(pa.field(field.name, field.type) for field in WIRE_SCHEMA),  # all may be null, as in tables of a batch
        pa.field("t", pa.int64()),
        *(pa.field(field.name, pa.string()) for field in TEXTS),
    ]
)

_Ids = Callable[[Ints], pa.ChunkedArray]
"""Row numbers → event ids."""


class SortBuffer:
    """See the module.

    Args:
        connection: of the engine; ORDERED is registered in it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._asked = {"user_id", "product_id"}  # the product is always remembered
        self._pending: list[pa.Table] = []
        self._oldest_ms = 0
        self._actors = KeyedState(ACTOR_HORIZON_MS, ("gap", "product"))
        self._visits = KeyedState(VISIT_HORIZON_MS)
        self._views = KeyedState(VISIT_HORIZON_MS)
        self._memories = {"derive_actors": self._actors, "derive_visits": self._visits, "derive_views": self._views}
        everything = [field.name for field in DERIVED_FIELDS]
        nothing = _SCHEMA.empty_table()
        self._show(nothing, nothing.column("event_id").take, everything, 0)

    @property
    def wanted(self) -> bool:
        """Whether an operator reads ORDERED."""
        return bool(stateful(self._asked))

    def want(self, columns: Iterable[str]) -> None:
        """Add columns to ORDERED; before the first release it has all."""
        self._asked |= set(columns)

    def hold(self, events: pa.Table) -> None:
        """Hold events that are not late: the wire's columns, `t`, and derived texts."""
        if not events.num_rows:
            return
        oldest_ms = pc.min(events.column("t")).as_py()
        self._oldest_ms = min(self._oldest_ms, oldest_ms) if self._pending else oldest_ms
        self._pending.append(events)

    def release(self, watermark_ms: int) -> bool:
        """Move the events before the watermark into ORDERED; returns whether there are any."""
        if not self._pending or self._oldest_ms >= watermark_ms:
            return False
        held = _concatenated(self._pending)
        ready = pc.less(held.column("t"), watermark_ms)
        rest = held.filter(pc.invert(ready))
        self._pending.clear()
        self.hold(rest)
        needed = sorted({"event_time", "t", *batch_columns(self._asked)} - ({"event_id"} - self._asked))
        passed = held.select(needed)
        ids = held.column("event_id")  # only needed for ties: not copied
        if rest.num_rows:
            passed, places = passed.filter(ready), np.flatnonzero(ready.to_numpy())
            self._show(passed, lambda rows: ids.take(pa.array(places[rows])), self._asked, watermark_ms)
        else:
            self._show(passed, lambda rows: ids.take(pa.array(rows)), self._asked, watermark_ms)
        return True

    def _show(self, ready: pa.Table, ids: _Ids, columns: Iterable[str], now_ms: int) -> None:
        for name, column in self._derive(ready, ids, [field.name for field in stateful(columns)], now_ms).items():
            ready = ready.append_column(name, column)
        self._connection.register(ORDERED, ready)

    def _derive(self, ready: pa.Table, ids: _Ids, wanted: Sequence[str], now_ms: int) -> dict[str, pa.Array]:
        """The wanted columns, in the order of the rows."""
        t = ready.column("t").to_numpy()
        actors, users = _codes(ready.column("user_id"))
        order = _by_time(ready, actors, ids)
        derived: dict[str, pa.Array] = {}
        if not _GAPS.isdisjoint(wanted):
            derived |= self._gaps(ready, t, actors, users, order, now_ms)
        if "first_visit" in wanted:
            codes, keys = _codes(self._hashes(ready, "user_id, user_session, product_id"))
            by_visit = order[_stable(codes[order])]
            since = self._since(t, codes, keys, by_visit, self._visits, now_ms)
            derived["first_visit"] = pa.array(since > VISIT_HORIZON_MS)
        if "viewed" in wanted:
            codes, keys = _codes(self._hashes(ready, "user_id, product_id"))
            by_product = order[_stable(codes[order])]
            views = pc.equal(ready.column("event_type"), "view").to_numpy()
            since = self._since(t, codes, keys, by_product, self._views, now_ms, views)
            derived["viewed"] = pa.array(since <= VISIT_HORIZON_MS)
        return {name: derived[name] for name in wanted}

    def _hashes(self, ready: pa.Table, columns: str) -> pa.Array:
        """DuckDB's 64-bit hash over several columns; one of some 10^19 pairs of keys collides."""
        rows = self._connection.from_arrow(ready).project(f"hash({columns})::UBIGINT AS h").fetchnumpy()["h"]
        return pa.array(rows.view(np.int64))

    def _gaps(  # noqa: PLR0917  the arrays belong together
        self, ready: pa.Table, t: Ints, actors: Ints, users: Ints, order: Ints, now_ms: int
    ) -> dict[str, pa.Array]:
        """Columns that depend on the shopper's previous event."""
        codes, times = actors[order], t[order]
        known_t, known_gap, known_product = self._actors.get(users)
        products = ready.column("product_id").to_numpy()[order]
        before = _previous(codes, times, known_t)
        gap = times - before
        fits = gap <= ACTOR_HORIZON_MS
        gap[~fits] = NEVER_MS  # stands for null; real gaps are at least 0
        gap2, product = _previous(codes, gap, known_gap), _previous(codes, products, known_product)
        last = _lasts(codes)
        self._actors.put(users[codes[last]], times[last], gap[last], products[last], now_ms=now_ms)
        return {
            "gap_ms": _scattered(order, gap, fits),
            "previous_gap_ms": _scattered(order, gap2, fits & (gap2 >= 0)),
            "previous_product_id": _scattered(order, product, fits),
            "new_user": _scattered(order, ~fits, np.ones(len(t), np.bool_)),
        }

    @staticmethod
    def _since(  # noqa: PLR0917  likewise
        t: Ints,
        codes: Ints,
        keys: Ints,
        order: Ints,
        memory: KeyedState,
        now_ms: int,
        marks: npt.NDArray[np.bool_] | None = None,
    ) -> Ints:
        """Milliseconds since the key's previous marked event (without `marks`, any event), in the order of the rows."""
        sorted_codes, times = codes[order], t[order]
        (known_t,) = memory.get(keys)
        if marks is not None:  # the newest mark so far within the key
            places = np.arange(len(t))
            first = np.maximum.accumulate(np.where(_firsts(sorted_codes), places, 0))
            newest = np.maximum.accumulate(np.where(marks[order], places, -1))
            times = np.where(newest >= first, times[newest], known_t[sorted_codes])
        since = np.empty(len(t), np.int64)
        since[order] = t[order] - _previous(sorted_codes, times, known_t)
        seen = _lasts(sorted_codes) & (times > NEVER_MS)
        memory.put(keys[sorted_codes[seen]], times[seen], now_ms=now_ms)
        return since

    def state(self) -> dict[str, pa.Table]:
        """State table → rows, for a checkpoint."""
        pending = _concatenated([_SCHEMA.empty_table(), *self._pending])
        return {_PENDING: pending, **{name: memory.table() for name, memory in self._memories.items()}}

    def resume(self, state: dict[str, pa.Table]) -> None:
        """Restore such tables; a missing one starts empty."""
        for name, memory in self._memories.items():
            if name in state:
                memory.restore({column: state[name].column(column).to_numpy() for column in state[name].column_names})
        self._pending.clear()
        if _PENDING in state:
            self.hold(state[_PENDING].select(_SCHEMA.names).cast(_SCHEMA))

    def rows(self) -> dict[str, int]:
        """State table → number of rows; empty while no operator reads ORDERED."""
        if not self.wanted:
            return {}
        pending = sum(table.num_rows for table in self._pending)
        return {_PENDING: pending, **{name: len(memory) for name, memory in self._memories.items()}}


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    """One table. Text keeps its dictionaries unless only some tables have them."""
    if any(table.schema.types != tables[0].schema.types for table in tables):
        tables = [table.select(_SCHEMA.names).cast(_SCHEMA) for table in tables]
    return pa.concat_tables(tables)


def _codes(keys: pa.Array | pa.ChunkedArray) -> tuple[Ints, Ints]:
    """The number of each row's key, in ascending order of keys, and the keys by number."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    encoded = pc.dictionary_encode(keys)
    found = encoded.dictionary.to_numpy()
    order = np.argsort(found)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[encoded.indices.to_numpy()], found[order]


def _stable(codes: Ints) -> Ints:
    """Stable argsort of small whole numbers, 16 bits at a time, which NumPy does in linear time."""
    order = np.argsort(codes.astype(np.uint16), kind="stable")
    shift = 16
    while len(codes) >> shift:
        digit = (codes >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
        shift += 16
    return order


def _by_time(ready: pa.Table, actors: Ints, ids: _Ids) -> Ints:
    """Rows in order of actor, event_time, event_id."""
    times = ready.column("event_time").cast(pa.int64()).to_numpy()
    order = np.argsort(times, kind="stable")
    order = order[_stable(actors[order])]
    codes, times = actors[order], times[order]
    tied = np.zeros(len(order) + 1, np.bool_)
    tied[1:-1] = (codes[1:] == codes[:-1]) & (times[1:] == times[:-1])
    places = np.flatnonzero(tied[1:] | tied[:-1])
    if len(places):  # few rows: sort them by id within the places that they occupy
        rows = pa.table(
            {
                "code": pa.array(codes[places]),
                "time": pa.array(times[places]),
                "event_id": ids(order[places]).cast(pa.string()),
            }
        )
        sorting = pc.sort_indices(
            rows, sort_keys=[("code", "ascending"), ("time", "ascending"), ("event_id", "ascending")]
        )
        order[places] = order[places][sorting.to_numpy()]
    return order


def _firsts(codes: Ints) -> npt.NDArray[np.bool_]:
    """Marks the first row of each key."""
    first = np.ones(len(codes), np.bool_)
    first[1:] = codes[1:] != codes[:-1]
    return first


def _lasts(codes: Ints) -> npt.NDArray[np.bool_]:
    """Marks the last row of each key."""
    last = np.ones(len(codes), np.bool_)
    last[:-1] = codes[1:] != codes[:-1]
    return last


def _previous(codes: Ints, values: Ints, known: Ints) -> Ints:
    """The key's value one row before; on its first row, the stored one."""
    previous = np.empty_like(values)
    previous[1:] = values[:-1]
    first = _firsts(codes)
    previous[first] = known[codes[first]]
    return previous


def _scattered(order: Ints, values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Sorted values in the order of the rows, null where not valid."""
    back, there = np.empty_like(values), np.empty_like(valid)
    back[order], there[order] = values, valid
    return pa.array(back, mask=~there)
