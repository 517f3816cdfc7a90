"""Detector 10c: broken data: events sent repeatedly, fields that are suddenly empty, impossible prices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shopstream.clock import MINUTE_MS
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import (
    BIN_MS,
    DUPLICATE_SIGNAL,
    PRICE_FACTOR,
    PRICE_SIGNAL,
    SITE_60S,
    AlertTemplate,
    Detector,
    OpenAlert,
    interval,
)
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.engine.signals import Signal

_STORM: Final = AlertTemplate(
    "duplicates",
    "duplicates-1",
    "Duplicate storm: {share} of incoming events were sent before",
    (),
    Nature.FAULT,
    "twice more than 8 % duplicates, and 8 standard deviations above the usual share",
    600_000,
)
_STORM_SCORE, _STORM_SHARE, _STORM_LEAST, _STORM_BINS = 8.0, 0.08, 6.0, 2
_USUAL_DUPLICATES: Final = 0.004
"""The real shop has 0.07 to 0.15 %, its carts 4.5 %."""
_MEMORY_BINS: Final = 2_160.0


class DuplicateDetector(Detector):
    """Many more duplicates than usual, which nobody sees because the engine drops them.

    Warm-up: none. Minimum volume: 6 duplicates in 10 s.

    Args:
        site: the site's state.
    """

    id = "duplicates"
    other_signals = (DUPLICATE_SIGNAL,)

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._usual = _USUAL_DUPLICATES
        self._hot = 0
        self._since_ms: int | None = None
        self._alert = OpenAlert()

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`."""
        events = self._site.counts.get("events", 0.0)
        duplicates = sum(numbers(signal)["duplicates"] for signal in signals)
        due = self._usual * events
        variance = 3 * due + (0.5 * due) ** 2 + 1
        score = (duplicates - due) / math.sqrt(variance)
        share = duplicates / max(events + duplicates, 1.0)
        hot = score > _STORM_SCORE and share > _STORM_SHARE and duplicates >= _STORM_LEAST
        # After a silence, senders repeat part of what they sent before.
        if not hot or self._site.silent or self._site.recovering(end_ms):
            self._hot, self._since_ms = 0, None
            self._alert.close()
            if events:
                self._usual += (min(duplicates / events, _STORM_SHARE) - self._usual) / _MEMORY_BINS
            return []
        self._hot += 1
        self._since_ms = self._since_ms or end_ms - BIN_MS
        if self._hot < _STORM_BINS or (window := self._alert.window(self._since_ms, end_ms)) is None:
            return []
        evidence = {
            **interval(due, variance),
            "score": score,
            "contributions": {"duplicates": 1.0},
            "excess_events": duplicates - due,
            "confidence": 1 - math.exp(-score / 4),
            "genuine_share": 1.0,
        }
        measures = {"duplicates": duplicates, "events": events, "share": share}
        return [_STORM.detection(Severity.MEDIUM, {}, window, measures, evidence)]

    def snapshot(self) -> Mapping[str, object]:
        """The usual share and the alert."""
        return {"storm": [self._usual, self._hot, self._since_ms], "alert": self._alert.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._usual, self._hot, self._since_ms = state["storm"]
        self._alert = OpenAlert.of(state["alert"])


_FIELDS: Final = {"brand": "no_brand", "category_code": "no_category_code", "user_session": "no_session"}
_NULLS: Final = {
    name: AlertTemplate(
        f"nulls_{name}",
        "nulls-1",
        f"{name} is empty in {{share}} of events, usually {{usual_share}}",
        (),
        Nature.FAULT,
        "for two minutes 10 points and 8 standard deviations above the usual share",
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
    alert: OpenAlert = field(default_factory=OpenAlert)


class NullDetector(Detector):
    """A field that is empty far more often than usual, such as after a broken release of the tracker.

    Warm-up: half an hour, none with baselines. Minimum volume: 50 events a minute.

    Args:
        site: the site's state.
        baselines: the usual shares; None learns them.
    """

    id = "nulls"
    windows = (SITE_60S,)

    def __init__(self, site: SiteState, baselines: Baselines | None = None) -> None:
        self._site = site
        shares = baselines.shares if baselines else {}
        self._fields = {name: _Nulls() for name in _FIELDS}
        for name, measure in _FIELDS.items():
            if f"{measure}_60s" in shares:
                hours = shares[f"{measure}_60s"].hours
                self._fields[name] = _Nulls(sum(hours) / len(hours), _NULL_WARM_UP)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`; a minute's shares come at its end."""
        if end_ms % MINUTE_MS or not signals:
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
            nulls.alert.close()
            return None
        nulls.hot += 1
        if nulls.hot < _NULL_MINUTES:
            return None
        window = nulls.alert.window(end_ms - nulls.hot * MINUTE_MS, end_ms)
        if window is None:
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
        measures = {"share": share, "usual_share": nulls.usual}
        return _NULLS[name].detection(Severity.MEDIUM, {}, window, measures, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """Usual shares and alerts."""
        return {
            "fields": {
                name: [nulls.usual, nulls.seen, nulls.hot, nulls.alert.snapshot()]
                for name, nulls in self._fields.items()
            }
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        for name, (usual, seen, hot, alert) in state["fields"].items():
            self._fields[name] = _Nulls(usual, seen, hot, OpenAlert.of(alert))


_PRICE: Final = AlertTemplate(
    "price",
    "price-1",
    "Product {product_id} at a price of {price}, usually {usual_price}",
    (),
    Nature.FAULT,
    f"price below lowest usual / {PRICE_FACTOR:g} or above highest usual x {PRICE_FACTOR:g}",
    3_600_000,
)


class PriceDetector(Detector):
    """A price far from all usual prices of the product.

    Warm-up: none with baselines; without them, a product's first price is its usual one. Minimum volume: one event. A
    price of zero means that there is none.
    """

    id = "price"
    other_signals = (PRICE_SIGNAL,)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  the signals decide
        """See `Detector.observe`."""
        return [_price_detection(signal) for signal in signals]

    def snapshot(self) -> Mapping[str, object]:
        """Empty: the engine's tables hold the usual prices."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is no state to restore."""


def _price_detection(signal: Signal) -> Detection:
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
    measures = {"price": seen, "usual_price": usual, "factor": seen / usual, "events": values["events"]}
    key = {column: str(value) for column, value in signal.key.items()}
    severity = Severity.HIGH if below else Severity.MEDIUM
    return _PRICE.detection(severity, key, (signal.start_ms, signal.end_ms), measures, evidence)
