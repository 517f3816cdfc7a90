"""Detector 10c: data that went wrong on the way: events sent again and again, fields that are suddenly empty, prices
that cannot be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import AlertTemplate, OpenAlert, interval
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.detection.windows import DUPLICATE_SIGNAL, PRICE_FACTOR, PRICE_SIGNAL, SITE_60S
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError

__all__ = ["DuplicateDetector", "NullDetector", "PriceDetector"]

_VERSION: Final = 1
_MINUTE_MS: Final = 60_000
_STORM = AlertTemplate(
    "duplicates",
    "duplicates-1",
    "Duplicate storm: events are sent again and again",
    (),
    Nature.FAULT,
    "2 bins > 8 sigma and > 8 % duplicates",
    600_000,
)
_STORM_SCORE, _STORM_SHARE, _STORM_LEAST, _STORM_BINS = 8.0, 0.08, 6.0, 2
_USUAL_DUPLICATES: Final = 0.004
"""The real shop has 0.07 to 0.15 %, its carts 4.5 %."""
_MEMORY_BINS: Final = 2_160.0


@dataclass(slots=True)
class _Storm:
    usual: float = _USUAL_DUPLICATES
    hot: int = 0
    since_ms: int | None = None
    spell: OpenAlert = field(default_factory=OpenAlert)


class DuplicateDetector:
    """Many more events than usual that were there before; the engine drops them, nobody would see.

    Warm-up: none. Minimum volume: 6 duplicates in 10 s.

    Args:
        site: the site's state.
    """

    id: Final = "duplicates"
    windows: Sequence[WindowDeclaration] = ()
    other_signals: Sequence[str] = (DUPLICATE_SIGNAL,)

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._storm = _Storm()

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin."""
        storm = self._storm
        events = self._site.counts.get("events", 0.0)
        again = sum(numbers(signal)["duplicates"] for signal in signals)
        due = storm.usual * events
        variance = 3 * due + (0.5 * due) ** 2 + 1
        score = (again - due) / math.sqrt(variance)
        share = again / max(events + again, 1.0)
        hot = score > _STORM_SCORE and share > _STORM_SHARE and again >= _STORM_LEAST
        if not hot or self._site.silent or self._site.recovering(end_ms):  # a backlog is sent with what came before
            storm.hot, storm.since_ms = 0, None
            storm.spell.end()
            if events:
                storm.usual += (min(again / events, _STORM_SHARE) - storm.usual) / _MEMORY_BINS
            return []
        storm.hot += 1
        storm.since_ms = storm.since_ms or end_ms - 10_000
        if storm.hot < _STORM_BINS:
            return []
        span = storm.spell.span(storm.since_ms, end_ms)
        if span is None:
            return []
        evidence = {
            **interval(due, variance),
            "score": score,
            "contributions": {"duplicates": 1.0},
            "excess_events": again - due,
            "confidence": 1 - math.exp(-score / 4),
            "genuine_share": 1.0,
        }
        measures = {"duplicates": again, "events": events, "share": share}
        return [_STORM.detection(Severity.MEDIUM, {}, span, measures, evidence)]

    def snapshot(self) -> Mapping[str, object]:
        """The usual share, and what goes on."""
        storm = self._storm
        return {
            "version": _VERSION,
            "storm": [storm.usual, storm.hot, storm.since_ms],
            "spell": storm.spell.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        _check(state, self.id)
        usual, hot, since_ms = state["storm"]
        self._storm = _Storm(usual, hot, since_ms, OpenAlert.of(state["spell"]))


_FIELDS: Final = {"brand": "no_brand", "category_code": "no_category_code", "user_session": "no_session"}
_NULLS: Final = {
    name: AlertTemplate(
        f"nulls_{name}",
        "nulls-1",
        f"{name} is suddenly empty",
        (),
        Nature.FAULT,
        "2 minutes > 8 sigma and 10 points",
        1_800_000,
    )
    for name in _FIELDS
}
_NULL_SCORE, _NULL_POINTS, _NULL_MINUTES, _NULL_MEMORY, _NULL_WARM_UP = 8.0, 0.1, 2, 240.0, 30.0


@dataclass(slots=True)
class _Nulls:
    usual: float = 0.0
    seen: float = 0.0
    hot: int = 0
    spell: OpenAlert = field(default_factory=OpenAlert)


class NullDetector:
    """A field that is empty far more often than usual: a tracker's release went wrong.

    Warm-up: half an hour, none with baselines. Minimum volume: 50 events a minute.

    Args:
        site: the site's state.
        baselines: the usual shares; None learns them.
    """

    id: Final = "nulls"
    windows: Sequence[WindowDeclaration] = (SITE_60S,)
    other_signals: Sequence[str] = ()

    def __init__(self, site: SiteState, baselines: Baselines | None = None) -> None:
        self._site = site
        shares = baselines.shares if baselines else {}
        self._fields = {name: _Nulls() for name in _FIELDS}
        for name, measure in _FIELDS.items():
            if f"{measure}_60s" in shares:
                hours = shares[f"{measure}_60s"].hours
                self._fields[name] = _Nulls(sum(hours) / len(hours), _NULL_WARM_UP)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin; a minute's shares come at its end."""
        if end_ms % _MINUTE_MS or not signals:
            return []
        counts = numbers(signals[0])
        events = counts["events"]
        if events < 50 or not self._site.settled(end_ms):  # noqa: PLR2004  the minimum volume
            return []
        found = (self._test(end_ms, name, counts[_FIELDS[name]] / events, events) for name in _FIELDS)
        return [detection for detection in found if detection is not None]

    def _test(self, end_ms: int, name: str, share: float, events: float) -> Detection | None:
        nulls = self._fields[name]
        variance = 4 * nulls.usual * (1 - nulls.usual) / events + (0.03 * nulls.usual) ** 2 + 1 / events**2
        score = (share - nulls.usual) / math.sqrt(variance)
        warm = nulls.seen >= _NULL_WARM_UP
        if not (warm and score > _NULL_SCORE and share - nulls.usual > _NULL_POINTS):
            nulls.seen += 1
            nulls.usual += (share - nulls.usual) / min(nulls.seen, _NULL_MEMORY)
            nulls.hot = 0
            nulls.spell.end()
            return None
        nulls.hot += 1
        if nulls.hot < _NULL_MINUTES:
            return None
        span = nulls.spell.span(end_ms - nulls.hot * _MINUTE_MS, end_ms)
        if span is None:
            return None
        evidence = {
            **interval(nulls.usual, variance),
            "score": score,
            "contributions": {name: 1.0},
            "excess_events": (share - nulls.usual) * events,
            "confidence": 1 - math.exp(-score / 4),
            "composition": {name: [share, nulls.usual]},
            "genuine_share": 1.0,
        }
        return _NULLS[name].detection(Severity.MEDIUM, {}, span, {"share": share}, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """Usual shares, and what goes on."""
        return {
            "version": _VERSION,
            "fields": {
                name: [nulls.usual, nulls.seen, nulls.hot, nulls.spell.snapshot()]
                for name, nulls in self._fields.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        _check(state, self.id)
        for name, (usual, seen, hot, spell) in state["fields"].items():
            self._fields[name] = _Nulls(usual, seen, hot, OpenAlert.of(spell))


_PRICE = AlertTemplate(
    "price",
    "price-1",
    "A product at a price that cannot be",
    (),
    Nature.FAULT,
    f"price below lowest usual / {PRICE_FACTOR:g} or above highest usual x {PRICE_FACTOR:g}",
    3_600_000,
)


class PriceDetector:
    """A price far from all that are usual for the product.

    Warm-up: none with baselines; without, a product's first price is its usual one. Minimum volume: one event. Prices
    of zero say that there is none.
    """

    id: Final = "price"
    windows: Sequence[WindowDeclaration] = ()
    other_signals: Sequence[str] = (PRICE_SIGNAL,)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  told by the signals
        """One bin."""
        return [self._told(signal) for signal in signals]

    def _told(self, signal: Signal) -> Detection:
        values = numbers(signal)
        below = values["lowest"] < values["low"] / PRICE_FACTOR
        seen, usual = (values["lowest"], values["low"]) if below else (values["highest"], values["high"])
        distance = abs(math.log(seen / usual))
        evidence = {
            "expected": usual,
            "low": values["low"] / PRICE_FACTOR,
            "high": values["high"] * PRICE_FACTOR,
            "score": distance / math.log(PRICE_FACTOR),
            "contributions": {"price": 1.0},
            "excess_events": values["events"],
            "confidence": 1 - math.exp(-3 * distance / math.log(PRICE_FACTOR)),
            "genuine_share": 1.0,
        }
        measures = {"price": seen, "usual": usual, "factor": seen / usual, "events": values["events"]}
        key = {column: str(value) for column, value in signal.key.items()}
        severity = Severity.HIGH if below else Severity.MEDIUM
        return _PRICE.detection(severity, key, (signal.start_ms, signal.end_ms), measures, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """It keeps nothing: the engine's tables hold the usual prices."""
        return {"version": _VERSION}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up.

        Raises:
            StateError: it is of another version.
        """
        _check(state, self.id)


def _check(state: Mapping[str, Any], detector: str) -> None:
    if state.get("version") != _VERSION:
        raise StateError(f"the {detector} detector's snapshot is of another version; it begins afresh")
