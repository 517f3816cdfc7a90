"""Signals: small rows, one for each window that met its condition; and how they travel as bytes.

A payload is one JSON object:

    {"format": 1, "until_ms": 1572566400000, "part": 0, "parts": 1, "signals": [
      {"window": "user_burst", "key": {"user_id": 7}, "start_ms": …, "end_ms": …, "first_event_ms": …,
       "last_event_ms": …, "measures": {"events": 31, "spent": {"decimal": "12.50"}}, "final": true}]}

`until_ms` is the event time up to which all signals are known once all parts have arrived. If no events arrive, `quiet`
is `[newest_ms, until_ms]`, see `Quiet`. The parts of one batch follow each other. A writer that was killed may send a
batch again from part 0, divided differently.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from shopstream.errors import DecodeError, PermanentError, StateError
from shopstream.stream.ports import MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Signal:
    """One window of one key that met its condition.

    Args:
        window: name of the window declaration: of a rule, its id.
        key: key column → value, in declared order; empty for the whole site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: times of its first and last event.
        measures: measure name → value; money is Decimal.
        final: False while the window is open and the values may grow.
    """

    window: str
    key: Mapping[str, str | int]
    start_ms: int
    end_ms: int
    first_event_ms: int
    last_event_ms: int
    measures: Mapping[str, object]
    final: bool


UNWATCHED: Final = "unwatched"
"""Window of a signal about the gap between a loaded history and live events, where missing events mean nothing. The
detector runner reads it."""

QUIET: Final = "quiet"
"""Window of a signal that the detector runner sends when only the clock advances: the newest event is in this bin, and
the rest of the bin is not known yet."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A time without events by the clock, which is no promise: events may be on their way.

    Args:
        newest_ms: time of the newest event.
        until_ms: event time, by the clock, up to which none followed it.
    """

    newest_ms: int
    until_ms: int


_FORMAT: Final = 1
_ENVELOPE_BYTES: Final = 512
"""Upper bound of the bytes around the signals, and of a partition key."""

_TIMES: Final = ("start_ms", "end_ms", "first_event_ms", "last_event_ms")
_FIELDS: Final = frozenset({"window", "key", "measures", "final", *_TIMES})


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """Signals up to one event time, or a part of them.

    Args:
        signals: in the engine's order.
        until_ms: event time up to which all signals are known with the last part, epoch milliseconds.
        part: number of this part, from 0.
        parts: number of parts.
        quiet: how far the clock has advanced without events; None if events arrive.
    """

    signals: tuple[Signal, ...]
    until_ms: int
    part: int = 0
    parts: int = 1
    quiet: Quiet | None = None


class SignalAssembler:
    """Joins the parts of a batch, because detectors need all signals of a bin at once."""

    def __init__(self) -> None:
        self._parts: list[SignalBatch] = []
        self._complete_ms: int | None = None

    def add(self, batch: SignalBatch) -> SignalBatch | None:
        """Add a part; returns the whole batch with its last part, None before. Repeated parts are ignored.

        Raises:
            StateError: parts before this one are missing.
        """
        if batch.part == 0:
            self._parts.clear()
        following = self._parts[-1].until_ms == batch.until_ms if self._parts else batch.part == 0
        if not following or batch.part > len(self._parts):
            if batch.until_ms == self._complete_ms:
                return None
            raise StateError(
                f"expected part {len(self._parts)} of signals, got part {batch.part} of {batch.parts}: earlier parts "
                "were lost; restart the engine from its checkpoint, which sends them again"
            )
        if batch.part < len(self._parts):
            return None
        self._parts.append(batch)
        if len(self._parts) < batch.parts:
            return None
        signals = tuple(signal for part in self._parts for signal in part.signals)
        self._parts.clear()
        self._complete_ms = batch.until_ms
        return SignalBatch(signals, batch.until_ms, quiet=batch.quiet)

    @property
    def waiting(self) -> int:
        """Number of parts that wait for others."""
        return len(self._parts)

    def discard(self) -> int:
        """Drop the waiting parts, whose batch can never be complete; returns how many."""
        count = len(self._parts)
        self._parts.clear()
        return count

    def snapshot(self) -> dict[str, object]:
        """The waiting parts, JSON-ready."""
        return {"complete_ms": self._complete_ms, "parts": [_text(part) for part in self._parts]}

    def restore(self, state: Mapping[str, object]) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: it is not one.
        """
        complete_ms, parts = state.get("complete_ms"), state.get("parts")
        if not (complete_ms is None or isinstance(complete_ms, int)) or not isinstance(parts, list):
            raise StateError("expected waiting signals with complete_ms and parts; start from an older state")
        self._complete_ms = complete_ms
        self._parts = [decode_signals(str(part).encode()) for part in parts]


def encode_signals(
    signals: Iterable[Signal], until_ms: int, quiet: Quiet | None = None, *, max_bytes: int = MAX_RECORD_BYTES
) -> list[bytes]:
    """Payloads, each small enough for one record.

    Raises:
        PermanentError: one signal alone is too large.
    """
    parts: list[list[str]] = [[]]
    size, limit = 0, max_bytes - _ENVELOPE_BYTES
    for signal in signals:
        text = json.dumps(_document(signal), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        if len(text) > limit:
            raise PermanentError(
                f"expected signals of at most {limit} bytes, got {len(text)} from {signal.window}; measure less"
            )
        if size + len(text) + 1 > limit:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text) + 1
    by_clock = f'"quiet":[{quiet.newest_ms},{quiet.until_ms}],' if quiet else ""
    return [
        (
            f'{{"format":{_FORMAT},"until_ms":{until_ms},{by_clock}"part":{place},"parts":{len(parts)},'
            f'"signals":[{",".join(part)}]}}'
        ).encode()
        for place, part in enumerate(parts)
    ]


def _text(batch: SignalBatch) -> str:
    return json.dumps(
        {
            "format": _FORMAT,
            "until_ms": batch.until_ms,
            "part": batch.part,
            "parts": batch.parts,
            **({"quiet": [batch.quiet.newest_ms, batch.quiet.until_ms]} if batch.quiet else {}),
            "signals": [_document(signal) for signal in batch.signals],
        }
    )


def decode_signals(payload: bytes) -> SignalBatch:
    """Signals of one payload.

    Raises:
        DecodeError: it does not hold signals, or has another format.
    """
    try:
        document = json.loads(payload)
    except ValueError as error:
        raise DecodeError(f"expected signals as JSON, got {len(payload)} bytes that are not") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DecodeError(f"expected signals of format {_FORMAT}; upgrade the reader first, then the engine")
    numbers = [document.get(name) for name in ("until_ms", "part", "parts")]
    signals = document.get("signals")
    if not all(map(_is_int, numbers)) or not isinstance(signals, list):
        raise DecodeError("expected signals with until_ms, part, parts and a list of signals")
    until_ms, part, parts = (int(str(number)) for number in numbers)
    if not 0 <= part < parts:
        raise DecodeError(f"expected a part of signals below {parts}, got {part}")
    return SignalBatch(tuple(map(_signal, signals)), until_ms, part, parts, _quiet(document.get("quiet")))


def _quiet(value: object) -> Quiet | None:
    match value:
        case None:
            return None
        case [int(newest_ms), int(until_ms)] if _is_int(newest_ms) and _is_int(until_ms):
            return Quiet(newest_ms, until_ms)
        case _:
            raise DecodeError("expected quiet as two event times, [newest_ms, until_ms]")


def _document(signal: Signal) -> dict[str, object]:
    return {
        "window": signal.window,
        "key": dict(signal.key),
        "start_ms": signal.start_ms,
        "end_ms": signal.end_ms,
        "first_event_ms": signal.first_event_ms,
        "last_event_ms": signal.last_event_ms,
        "measures": {name: _json_value(value) for name, value in signal.measures.items()},
        "final": signal.final,
    }


def _json_value(value: object) -> object:
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": [[_json_value(key), _json_value(item)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PermanentError(
        f"expected a measure to be a number, text, list or map, got {type(value).__name__}; cast it in the window"
    )


def _measure_of(value: object) -> object:
    if isinstance(value, list):
        return [_measure_of(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"decimal": str(text)}:
            return Decimal(text)
        case {"float": ("nan" | "inf" | "-inf") as text}:
            return float(text)
        case {"map": list(pairs)}:
            return {_measure_of(key): _measure_of(item) for key, item in pairs}
        case _:
            raise DecodeError("expected a measure as a number, text, list, or an object of one known kind")


def _signal(document: object) -> Signal:
    if not isinstance(document, dict) or document.keys() != _FIELDS:
        raise DecodeError(f"expected a signal with exactly {', '.join(sorted(_FIELDS))}")
    key, measures = document["key"], document["measures"]
    fits = (
        isinstance(document["window"], str)
        and isinstance(key, dict)
        and all(isinstance(value, str) or _is_int(value) for value in key.values())
        and isinstance(measures, dict)
        and all(_is_int(document[name]) for name in _TIMES)
        and isinstance(document["final"], bool)
    )
    if not fits:
        raise DecodeError("expected a signal's fields to have their types; see engine.signals")
    try:
        values = {name: _measure_of(value) for name, value in measures.items()}
    except (InvalidOperation, TypeError, ValueError) as error:
        raise DecodeError("expected a signal's measures as numbers, texts, lists or maps") from error
    return Signal(
        window=document["window"],
        key=key,
        start_ms=document["start_ms"],
        end_ms=document["end_ms"],
        first_event_ms=document["first_event_ms"],
        last_event_ms=document["last_event_ms"],
        measures=values,
        final=document["final"],
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
