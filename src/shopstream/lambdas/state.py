"""Detector state in a table: what the detectors remember, and up to which signals.

A *head* names the generation that counts. Its parts are written before, under a name of their own, so that a writer
that loses touches nothing of another's; what no head names expires.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from shopstream.clock import Clock
from shopstream.errors import RetryableError, StateError
from shopstream.incidents.table import ConflictError, Item, Operation, Table, data_of, number_of, text_of

__all__ = ["KEPT", "SavedDetection", "StateInTable"]

KEPT: Final = timedelta(days=3)
"""Parts expire so long after they were written; `keep` puts that off."""
_HEAD: Final = ("DETECTORS", "HEAD")
_PART: Final = 350_000
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class SavedDetection:
    """What was saved.

    Args:
        generation: how often it was saved before, and this time.
        state: of `DetectorRunner.snapshot()`, or whatever JSON-ready state was given.
        positions: shard → sequence number of the last signal in it.
        until_ms: event time up to which everything was told; None before the first.
        saved_ms: processing time.
    """

    generation: int
    state: Mapping[str, Any]
    positions: Mapping[str, int] = field(default_factory=dict)
    until_ms: int | None = None
    saved_ms: int = 0


class StateInTable:
    """One object belongs to one thread.

    Args:
        table: that of the incidents.
        clock: processing time.
    """

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._expired = 0  # the generation whose parts are gone

    def generation(self) -> int:
        """How often it was saved, 0: never; so a process sees cheaply whether what it remembers still counts."""
        head = self._table.get([_HEAD]).get(_HEAD, {})
        return int(head.get("generation", 0))  # type: ignore[arg-type]

    def load(self) -> SavedDetection | None:
        """What was saved last; None where nothing was, or it was so long ago that it has expired.

        Raises:
            StateError: damaged, or of another version of shopstream.
        """
        while (head := self._table.get([_HEAD]).get(_HEAD)) is not None:
            if (found := number_of(head, "format")) != _FORMAT:
                raise StateError(
                    f"expected detector state of format {_FORMAT}, got {found}; use the shopstream that wrote "
                    "it, or delete the item DETECTORS/HEAD: detectors then begin afresh"
                )
            parts = [data_of(part) for part in self._table.query(f"DETECTORS#{text_of(head, 'parts_id')}")]
            if len(parts) == number_of(head, "parts"):
                told = json.loads(text_of(head, "told"))
                return SavedDetection(
                    generation=number_of(head, "generation"),
                    state=_unpacked(b"".join(parts)),
                    positions={shard: int(place) for shard, place in told["positions"].items()},
                    until_ms=told["until_ms"],
                    saved_ms=number_of(head, "saved_ms"),
                )
            if self._table.get([_HEAD]).get(_HEAD) == head:
                self._expired = number_of(head, "generation")
                return None
        return None

    def keep(self) -> bool:
        """Put off the expiry of what was saved last, if it was long ago; whether there was anything to do."""
        head = self._table.get([_HEAD]).get(_HEAD, {})
        kept_ms = max(number_of(head, "saved_ms"), number_of(head, "kept_ms"))
        now_ms = self._clock.now_ms()
        if not head or now_ms - kept_ms < KEPT // timedelta(milliseconds=3):
            return False
        parts = list(self._table.query(f"DETECTORS#{text_of(head, 'parts_id')}"))
        self._table.put([{**part, "expires_at": self._expiry(now_ms)} for part in parts])
        try:
            expected = {"generation": number_of(head, "generation")}
            self._table.write([Operation(_HEAD, {**head, "kept_ms": now_ms}, expected)])
        except ConflictError:
            return False  # somebody saved meanwhile: nothing expires soon
        return True

    def _expiry(self, now_ms: int) -> int:
        return now_ms // 1_000 + round(KEPT.total_seconds())

    def save(
        self,
        state: Mapping[str, Any],
        positions: Mapping[str, int],
        *,
        until_ms: int | None = None,
        expected_generation: int = 0,
    ) -> int:
        """Save over the generation that was loaded or saved last, 0 where there was none; returns the new one.

        Raises:
            StateError: another has saved meanwhile; load again.
            RetryableError: not known to be saved; the same call again is harmless.
        """
        over = expected_generation or self._expired
        data = zlib.compress(json.dumps(state).encode())
        parts = [data[start : start + _PART] for start in range(0, len(data), _PART)]
        parts_id, now_ms = uuid4().hex, self._clock.now_ms()
        expires_at = self._expiry(now_ms)
        self._table.put(
            [
                {
                    "pk": f"DETECTORS#{parts_id}",
                    "sk": f"{place:04d}",
                    "item": "detectors",
                    "data": part,
                    "expires_at": expires_at,
                }
                for place, part in enumerate(parts)
            ]
        )
        # Sequence numbers have more digits than a number of the table may have.
        told = {"positions": {shard: str(place) for shard, place in positions.items()}, "until_ms": until_ms}
        head: Item = {
            "pk": _HEAD[0],
            "sk": _HEAD[1],
            "item": "detectors",
            "format": _FORMAT,
            "generation": over + 1,
            "parts_id": parts_id,
            "parts": len(parts),
            "bytes": len(data),
            "told": json.dumps(told),
            "saved_ms": now_ms,
        }
        try:
            self._table.write([Operation(_HEAD, head, {"generation": over or None})])
        except ConflictError as error:
            found = number_of(self._table.get([_HEAD]).get(_HEAD, {}), "generation")
            if found == over:
                raise RetryableError("another writer is at the detector state; try again") from error
            raise StateError(
                f"expected detector state of generation {over}, got {found}: another "
                "process judges the same signals; load again and go on from there"
            ) from error
        return over + 1


def _unpacked(data: bytes) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise StateError(
            "detector state is damaged; delete the item DETECTORS/HEAD: detectors then begin afresh"
        ) from error
    return state
