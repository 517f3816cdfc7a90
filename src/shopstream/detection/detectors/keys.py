"""Detector 1 for categories and products: one of them gets far more than its share.

A key is busy when its minute lies far above its usual share of the site as forecast, raised by what all other keys
together have too much, so that a flood or sale of the whole site says nothing about its parts. An id counts at most 2.5
events a minute on average: a single robot is an actor's matter. Windows of a minute carry a condition, so that only
busy keys become signals; windows of an hour keep the usual shares up to date.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import AlertTemplate, OpenAlert, interval
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import StateError

__all__ = ["KeyVolumeDetector"]

_VERSION: Final = 1
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_LEAST: Final = 12
"""Events a minute below which a key is no matter."""
_LEAST_HOUR: Final = 60
_EVENTS_A_USER: Final = 2.5
_SPREAD: Final = 2.5
"""Variance of a key's minute over its mean: a visit brings several events of one category."""
_ERROR: Final = 0.2
_SURE, _LIKELY, _LIKELY_MINUTES = 9.0, 5.5, 2
_FACTOR: Final = 2.5
_MORE: Final = 20.0
_MOST: Final = 0.6
"""A key that has this share of what the site has too much is what is flooded."""
_MEMORY: Final = 24.0
"""Hours over which a share is followed."""
_STALE_MS: Final = 7 * 24 * _HOUR_MS
_WARM_UP_HOURS: Final = 2

_FLOOD: Final = {
    "category_id": AlertTemplate(
        "volume_category",
        "volume-1",
        "Flood of one category",
        ("owasp.oat-015", "attack.t1498"),
        Nature.ATTACK,
        "minute > 9 sigma, or two > 5.5 sigma, and > 2.5 x",
        600_000,
    ),
    "product_id": AlertTemplate(
        "volume_product",
        "volume-1",
        "Flood of one product",
        ("owasp.oat-015", "attack.t1498"),
        Nature.ATTACK,
        "minute > 9 sigma, or two > 5.5 sigma, and > 2.5 x",
        600_000,
    ),
}


@dataclass(slots=True)
class _Key:
    share: float
    error: float = _ERROR
    updated_ms: int = 0
    hot: int = 0
    hot_ms: int = 0
    spell: OpenAlert = field(default_factory=OpenAlert)


class KeyVolumeDetector:
    """Floods of one category or product.

    Warm-up: none with baselines, two hours without. Minimum volume: a key of 0.5 events/s; smaller ones when they jump
    above about 60 events a minute.

    Args:
        column: category_id or product_id.
        site: the site's state.
        baselines: usual shares; None learns them.
    """

    other_signals: Sequence[str] = ()

    def __init__(self, column: str, site: SiteState, baselines: Baselines | None = None) -> None:
        self.id: Final = f"volume_{column.removesuffix('_id')}"
        self._column = column
        self._site = site
        known = baselines.keys.get(column, {}) if baselines else {}
        self._keys = {key: _Key(rate.share, max(rate.error, 0.1)) for key, rate in known.items()}
        self._hours = _WARM_UP_HOURS if known else 0
        self._minute = WindowDeclaration(
            name=f"detect_{column}_60s",
            kind=WindowKind.TUMBLING,
            key=(column,),
            size_ms=_MINUTE_MS,
            measures={
                "events": "count(*)",
                "users": "count(distinct user_id)",
                "buys": "count(*) filter (where event_type in ('cart', 'purchase'))",
            },
            condition=f"events >= {_LEAST}",
        )
        self._hour = WindowDeclaration(
            name=f"detect_{column}_1h",
            kind=WindowKind.TUMBLING,
            key=(column,),
            size_ms=_HOUR_MS,
            measures={"events": "count(*)"},
            condition=f"events >= {_LEAST_HOUR}",
        )
        self._site_minute = 0.0
        self._site_hour = 0.0
        self._forecast_minute = 0.0
        self._disturbed = False

    @property
    def windows(self) -> Sequence[WindowDeclaration]:
        """A minute and an hour by key."""
        return self._minute, self._hour

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin."""
        site = self._site
        self._site_minute += site.counts.get("events", 0.0)
        self._forecast_minute += site.total.expected
        self._disturbed |= not site.settled(end_ms)
        detections: list[Detection] = []
        if end_ms % _MINUTE_MS == 0:
            self._site_hour += self._site_minute
            if not (site.silent or site.recovering(end_ms)) and self._hours >= _WARM_UP_HOURS:
                for signal in signals:
                    if signal.window == self._minute.name:
                        detections += self._test(signal)
            self._site_minute = self._forecast_minute = 0.0
        if end_ms % _HOUR_MS == 0:
            self._learn(end_ms, [signal for signal in signals if signal.window == self._hour.name])
        return detections

    def _test(self, signal: Signal) -> list[Detection]:
        """One key's minute."""
        values = numbers(signal)
        name = str(signal.key[self._column])
        known = self._keys.get(name)
        # A key that is not known had fewer than this in any hour that was seen.
        usual = known.share if known else _LEAST_HOUR / 2 / max(self._usual_hour(), 1.0)
        error = known.error if known else _ERROR * 2
        count = min(values["events"], _EVENTS_A_USER * values["users"])
        # What all others together have more than usual, this one may have, too.
        forecast = self._forecast_minute or self._site_minute
        others = (self._site_minute - values["events"]) / max((1 - usual) * forecast, 1.0)
        due = usual * forecast * max(1.0, others)
        variance = _SPREAD * due + (error * due) ** 2 + 4
        score = (count - due) / math.sqrt(variance)
        if score <= _LIKELY or count < _FACTOR * due or count - due < _MORE:
            if known:
                known.hot = 0
            return []
        if known is None:
            known = self._keys[name] = _Key(usual, error, signal.end_ms)
        known.hot = known.hot + 1 if signal.end_ms - known.hot_ms == _MINUTE_MS else 1
        known.hot_ms = signal.end_ms
        # While the whole site is busy, only what stands out for long is the key's own.
        sure = score > _SURE and not self._site.surge and self._site.total.score < 3  # noqa: PLR2004
        if not sure and known.hot < _LIKELY_MINUTES:
            return []
        if self._site.surge or self._site.sale(signal.end_ms):
            return []
        if self._site.attack and count - due < _MOST * (self._site_minute - forecast):
            return []  # the flood is the site's, this is its part of it
        span = known.spell.span(signal.start_ms, signal.end_ms)
        if span is None:
            return []
        if span[0] < signal.start_ms - _MINUTE_MS:  # an episode of its own
            known.spell.end()
            span = known.spell.span(signal.start_ms, signal.end_ms) or span
        evidence = {
            **interval(due, variance),
            "score": score,
            "contributions": {"volume": 1.0},
            "excess_events": values["events"] - due,
            "confidence": 1 - math.exp(-score / 4),
            "genuine_share": min(1.0, due / max(values["events"], 1.0)),
            "baseline_age_ms": self._site.age_ms(signal.end_ms),
            "forecast_error": error,
            "composition": {
                "users": [values["users"] / values["events"], 0.7],
                "buys": [values["buys"] / values["events"], self._site.mix.share("buys") or 0.0],
            },
        }
        measures = {"events": values["events"], "users": values["users"], "factor": values["events"] / max(due, 1.0)}
        key = {self._column: name}
        return [_FLOOD[self._column].detection(Severity.HIGH, key, span, measures, evidence)]

    def _usual_hour(self) -> float:
        return max(self._site.total.expected * _HOUR_MS / 10_000, self._site_minute * 60)

    def _learn(self, end_ms: int, signals: Sequence[Signal]) -> None:
        total, disturbed = self._site_hour, self._disturbed
        self._site_hour, self._disturbed = 0.0, False
        if disturbed or total <= 0:
            return
        self._hours += 1
        for signal in signals:
            name, share = str(signal.key[self._column]), numbers(signal)["events"] / total
            known = self._keys.get(name)
            if known is None:
                self._keys[name] = _Key(share, updated_ms=end_ms)
            elif known.hot_ms < end_ms - 2 * _HOUR_MS:
                known.share += (min(share, 3 * known.share) - known.share) / _MEMORY
                known.updated_ms = end_ms
        self._keys = {
            name: key for name, key in self._keys.items() if not key.updated_ms or end_ms - key.updated_ms < _STALE_MS
        }

    def snapshot(self) -> Mapping[str, object]:
        """Usual shares, and what goes on."""
        return {
            "version": _VERSION,
            "keys": {
                name: [key.share, key.error, key.updated_ms, key.hot, key.hot_ms, key.spell.snapshot()]
                for name, key in self._keys.items()
            },
            "now": [self._hours, self._site_minute, self._site_hour, self._forecast_minute, self._disturbed],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError(f"the {self.id} detector's snapshot is of another version; it begins afresh")
        self._keys = {
            name: _Key(share, error, updated_ms, hot, hot_ms, OpenAlert.of(spell))
            for name, (share, error, updated_ms, hot, hot_ms, spell) in state["keys"].items()
        }
        self._hours, self._site_minute, self._site_hour, self._forecast_minute, self._disturbed = state["now"]
