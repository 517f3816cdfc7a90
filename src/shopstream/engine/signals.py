"""What windowed SQL gives: small rows, one for each window that met its condition.

Signals as bytes: what an engine tells those who judge elsewhere, whatever computed it.

A payload is one JSON object:

    {"format": 1, "until_ms": 1572566400000, "part": 0, "parts": 1, "signals": [
      {"window": "user_burst", "key": {"user_id": 7}, "start_ms": …, "end_ms": …, "first_event_ms": …,
       "last_event_ms": …, "measures": {"events": 31, "spent": {"decimal": "12.50"}}, "final": true}]}

`until_ms` is the event time up to which everything has been told once all parts are there. Where nothing comes, `quiet`
says how far the clock has gone on: `[newest_ms, until_ms]`, see `signal.Quiet`. Parts of one moment come after each
other; a writer that was killed may begin a moment again with part 0, cut otherwise.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from shopstream.errors import DecodeError, PermanentError, StateError
from shopstream.stream.ports import MAX_RECORD_BYTES

__all__ = [
    "QUIET",
    "UNWATCHED",
    "Quiet",
    "Signal",
    "SignalAssembler",
    "SignalBatch",
    "decode_signals",
    "encode_signals",
]


@dataclass(frozen=True, slots=True)
class Signal:
    """One window of one key.

    Args:
        window: name of the window declaration; for a rule, the rule's id.
        key: key column → value, in declared order; empty for the whole site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: span of the events inside it.
        measures: measure name → value; money is Decimal.
        final: False while the window is still open and the values may grow.
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
"""The window of a signal about a stretch of event time between loaded history and live events: nobody watched it, so
events missing there mean nothing. The detector runner reads it."""

QUIET: Final = "quiet"
"""The window of a signal that the detector runner gives when only the clock moves on: the newest event is in this bin,
and the rest of the bin is not known yet."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What the clock adds to a stream without new events: no promise, since events may be on their way.

    Args:
        newest_ms: the newest event.
        until_ms: event time up to which, by the clock, none came after it.
    """

    newest_ms: int
    until_ms: int


_FORMAT: Final = 1
_ENVELOPE_BYTES: Final = 512
"""More than the bytes around the signals, and a partition key."""

_TIMES: Final = ("start_ms", "end_ms", "first_event_ms", "last_event_ms")
_FIELDS: Final = frozenset({"window", "key", "measures", "final", *_TIMES})


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """Signals of one moment, or a part of them.

    Args:
        signals: in the order in which the engine gave them.
        until_ms: event time up to which everything is told with the last part, epoch milliseconds.
        part: which one, from 0.
        parts: how many there are.
        quiet: how far the clock has gone on without events; None where some come.
    """

    signals: tuple[Signal, ...]
    until_ms: int
    part: int = 0
    parts: int = 1
    quiet: Quiet | None = None


class SignalAssembler:
    """Puts the parts of a moment together: detectors take all signals of a bin at once, or not at all."""

    def __init__(self) -> None:
        self._parts: list[SignalBatch] = []
        self._told_ms: int | None = None

    def add(self, batch: SignalBatch) -> SignalBatch | None:
        """The whole moment with its last part, None before. What comes again is left out.

        Raises:
            StateError: parts before this one are missing.
        """
        if batch.part == 0:
            self._parts.clear()
        following = self._parts[-1].until_ms == batch.until_ms if self._parts else batch.part == 0
        if not following or batch.part > len(self._parts):
            if batch.until_ms == self._told_ms:
                return None
            raise StateError(
                f"expected part {len(self._parts)} of signals, got part {batch.part} of {batch.parts}: those before it "
                "were lost; the engine tells them again when it is started from its checkpoint"
            )
        if batch.part < len(self._parts):
            return None
        self._parts.append(batch)
        if len(self._parts) < batch.parts:
            return None
        signals = tuple(signal for part in self._parts for signal in part.signals)
        self._parts.clear()
        self._told_ms = batch.until_ms
        return SignalBatch(signals, batch.until_ms, quiet=batch.quiet)

    @property
    def waiting(self) -> int:
        """How many parts wait for others."""
        return len(self._parts)

    def give_up(self) -> int:
        """Forget the parts that wait, as theirs can never be whole; returns how many."""
        count = len(self._parts)
        self._parts.clear()
        return count

    def snapshot(self) -> dict[str, object]:
        """Parts that wait for others, JSON-ready."""
        return {"told_ms": self._told_ms, "parts": [_text(part) for part in self._parts]}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is none.
        """
        told_ms, parts = state.get("told_ms"), state.get("parts")
        if not (told_ms is None or isinstance(told_ms, int)) or not isinstance(parts, list):
            raise StateError("expected waiting signals with told_ms and parts; start from an older state")
        self._told_ms = told_ms
        self._parts = [decode_signals(str(part).encode()) for part in parts]


def encode_signals(
    signals: Iterable[Signal], until_ms: int, quiet: Quiet | None = None, *, max_bytes: int = MAX_RECORD_BYTES
) -> list[bytes]:
    """Payloads that fit into one record each.

    Raises:
        PermanentError: one signal alone is too large.
    """
    parts: list[list[str]] = [[]]
    size, limit = 0, max_bytes - _ENVELOPE_BYTES
    for signal in signals:
        text = json.dumps(_document(signal), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        if len(text) > limit:
            raise PermanentError(
                f"a signal takes at most {limit} bytes, one of {signal.window} has {len(text)}; measure less"
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
        DecodeError: it is none, or of another format.
    """
    try:
        document = json.loads(payload)
    except ValueError as error:
        raise DecodeError(f"expected signals as JSON, got {len(payload)} bytes that are none") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise DecodeError(f"expected signals of format {_FORMAT}; upgrade the one that reads them, then the engine")
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
        "measures": {name: _plain(value) for name, value in signal.measures.items()},
        "final": signal.final,
    }


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PermanentError(f"a measure is a number, text, list or map, got {type(value).__name__}; cast it in the window")


def _measure(value: object) -> object:
    if isinstance(value, list):
        return [_measure(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"decimal": str(text)}:
            return Decimal(text)
        case {"float": ("nan" | "inf" | "-inf") as text}:
            return float(text)
        case {"map": list(pairs)}:
            return {_measure(key): _measure(item) for key, item in pairs}
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
        raise DecodeError("expected a signal's fields of their types; see engine.signal")
    try:
        values = {name: _measure(value) for name, value in measures.items()}
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
