"""What was last seen of each key: sorted arrays in runs that are merged as they grow, like a log-structured store.

A lookup is a binary search in each run, a `put` one new run; runs of like size are merged, so that both cost the
logarithm of the keys. Keys not seen within the horizon go when their run is merged, and at the latest when the rows
have doubled.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["NEVER_MS", "KeyedMemory"]

NEVER_MS = -(1 << 61)
"""The time of a key that was not seen: further back than any horizon."""

_LEAST_ROWS = 100_000

Ints = npt.NDArray[np.int64]


class KeyedMemory:
    """Key → time last seen, and values noted then.

    Args:
        horizon_ms: what was seen longer ago than this is forgotten.
        values: names of further values, whole numbers; the time is `t`.
    """

    def __init__(self, horizon_ms: int, values: Sequence[str] = ()) -> None:
        self._horizon_ms = horizon_ms
        self._names = ("key", "t", *values)
        self._runs: list[tuple[Ints, ...]] = []
        self._limit = _LEAST_ROWS

    def __len__(self) -> int:
        """Rows held; a key may have one in each run."""
        return sum(len(run[0]) for run in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(column.nbytes for run in self._runs for column in run)

    def get(self, keys: Ints) -> tuple[Ints, ...]:
        """Time and values of each key; NEVER_MS in each where it is not known. Ascending keys are faster."""
        found = tuple(np.full(len(keys), NEVER_MS, dtype=np.int64) for _ in self._names[1:])
        left = np.arange(len(keys))
        for run in reversed(self._runs):  # the newest run that knows a key is right
            if not len(left) or not len(run[0]):
                continue
            place = np.minimum(np.searchsorted(run[0], keys[left]), len(run[0]) - 1)
            hit = run[0][place] == keys[left]
            for target, column in zip(found, run[1:], strict=True):
                target[left[hit]] = column[place[hit]]
            left = left[~hit]
        return found

    def put(self, keys: Ints, t: Ints, *values: Ints, now_ms: int) -> None:
        """Note keys, ascending and each once, none of them longer ago than what is known of it."""
        if not len(keys):
            return
        self._runs.append((keys, t, *values))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            newer = self._runs.pop()
            self._runs[-1] = self._merge([self._runs[-1], newer], now_ms)
        if len(self) > self._limit:
            self._runs = [self._merge(self._runs, now_ms)]
            self._limit = max(2 * len(self), _LEAST_ROWS)

    def _merge(self, runs: Sequence[tuple[Ints, ...]], now_ms: int) -> tuple[Ints, ...]:
        """One run of several, oldest first: the newest row of a key stays unless it is past the horizon."""
        keys = np.concatenate([run[0] for run in runs])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        last = np.append(keys[1:] != keys[:-1], True)
        t = np.concatenate([run[1] for run in runs])[order]
        kept = last & (t >= now_ms - self._horizon_ms)
        rest = (np.concatenate(columns)[order][kept] for columns in list(zip(*runs, strict=True))[2:])
        return keys[kept], t[kept], *rest

    def table(self) -> pa.Table:
        """All rows, for a checkpoint."""
        run = self._merge(self._runs, NEVER_MS) if self._runs else tuple(np.zeros(0, np.int64) for _ in self._names)
        return pa.table(dict(zip(self._names, map(pa.array, run), strict=True)))

    def restore(self, columns: dict[str, Ints]) -> None:
        """Take a table's columns back, by name."""
        run = tuple(np.asarray(columns[name], dtype=np.int64) for name in self._names)
        self._runs = [run] if len(run[0]) else []
        self._limit = max(2 * len(self), _LEAST_ROWS)
