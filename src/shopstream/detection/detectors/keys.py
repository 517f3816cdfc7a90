"""Detector 1 for categories and products: one of them gets far more than its share.

A key is busy when its minute lies far above its usual share of the site's forecast. The forecast is raised by what all
other keys together have too much, so that a flood or sale of the whole site is not reported for each part. An id counts
at most 2.5 events a minute on average: a single robot is reported by rules about users. Windows of a minute carry a
condition, so that only busy keys become signals; windows of an hour keep the usual shares up to date.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shopstream.clock import HOUR_MS, MINUTE_MS
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import AlertTemplate, Detector, OpenAlert, interval, tumbling
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.engine.signals import Signal

_LEAST: Final = 12
"""Keys with fewer events a minute are ignored."""
_LEAST_HOUR: Final = 60
_EVENTS_A_USER: Final = 2.5
_SPREAD: Final = 2.5
"""Variance of a key's minute over its mean: a visit brings several events of one category."""
_ERROR: Final = 0.2
_SURE, _LIKELY, _LIKELY_MINUTES = 9.0, 5.5, 2
_FACTOR: Final = 2.5
_MORE: Final = 20.0
_MOST: Final = 0.6
"""During a flood of the site, a key is reported only if it has this share of the excess."""
_MEMORY: Final = 24.0
"""Hours over which a share is averaged."""
_STALE_MS: Final = 7 * 24 * HOUR_MS
_WARM_UP_HOURS: Final = 2

_MEASURES: Final = {
    "events": "count(*)",
    "users": "count(distinct user_id)",
    "buys": "count(*) filter (where event_type in ('cart', 'purchase'))",
}
_FLOODS: Final = {
    column: AlertTemplate(
        f"volume_{name}",
        "volume-1",
        f"Possible flood of {name} {{{column}}}: traffic {{factor}}x expected",
        ("owasp.oat-015", "attack.t1498"),
        Nature.ATTACK,
        "2.5 times the forecast, by 9 standard deviations in a minute or 5.5 in two",
        600_000,
    )
    for column, name in (("category_id", "category"), ("product_id", "product"))
}


@dataclass(slots=True)
class _Key:
    share: float
    error: float = _ERROR
    updated_ms: int = 0
    hot: int = 0
    hot_ms: int = 0
    alert: OpenAlert = field(default_factory=OpenAlert)


class KeyVolumeDetector(Detector):
    """Floods of one category or product.

    Warm-up: none with baselines, two hours without. Minimum volume: a key of 0.5 events/s; smaller ones when they jump
    above about 60 events a minute.

    Args:
        column: category_id or product_id.
        site: the site's state.
        baselines: usual shares; None learns them.
    """

    def __init__(self, column: str, site: SiteState, baselines: Baselines | None = None) -> None:
        self.id = f"volume_{column.removesuffix('_id')}"
        self._column = column
        self._site = site
        known = baselines.keys.get(column, {}) if baselines else {}
        self._keys = {key: _Key(rate.share, max(rate.error, 0.1)) for key, rate in known.items()}
        self._hours = _WARM_UP_HOURS if known else 0
        self._minute = tumbling(
            f"detect_{column}_60s", MINUTE_MS, _MEASURES, key=(column,), condition=f"events >= {_LEAST}"
        )
        events = {"events": "count(*)"}
        self._hour = tumbling(
            f"detect_{column}_1h", HOUR_MS, events, key=(column,), condition=f"events >= {_LEAST_HOUR}"
        )
        self.windows = (self._minute, self._hour)
        self._site_minute = 0.0
        self._site_hour = 0.0
        self._forecast_minute = 0.0
        self._disturbed = False

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`."""
        site = self._site
        self._site_minute += site.counts.get("events", 0.0)
        self._forecast_minute += site.total.expected
        self._disturbed |= not site.settled(end_ms)
        detections: list[Detection] = []
        if end_ms % MINUTE_MS == 0:
            self._site_hour += self._site_minute
            if not (site.silent or site.recovering(end_ms)) and self._hours >= _WARM_UP_HOURS:
                for signal in signals:
                    if signal.window == self._minute.name:
                        detections += self._test(signal)
            self._site_minute = self._forecast_minute = 0.0
        if end_ms % HOUR_MS == 0:
            self._learn(end_ms, [signal for signal in signals if signal.window == self._hour.name])
        return detections

    def _test(self, signal: Signal) -> list[Detection]:
        """One key's minute."""
        values = numbers(signal)
        name = str(signal.key[self._column])
        known = self._keys.get(name)
        # An unknown key had fewer events than this in any hour so far.
        usual = known.share if known else _LEAST_HOUR / 2 / max(self._usual_hour(), 1.0)
        error = known.error if known else _ERROR * 2
        count = min(values["events"], _EVENTS_A_USER * values["users"])
        # If all other keys have more than usual, this key may, too.
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
        known.hot = known.hot + 1 if signal.end_ms - known.hot_ms == MINUTE_MS else 1
        known.hot_ms = signal.end_ms
        # While the whole site is busy, a key must stand out for longer.
        sure = score > _SURE and not self._site.surge and self._site.total.score < 3  # noqa: PLR2004
        if not sure and known.hot < _LIKELY_MINUTES:
            return []
        if self._site.surge or self._site.sale(signal.end_ms):
            return []
        if self._site.attack and count - due < _MOST * (self._site_minute - forecast):
            return []  # this is the key's part of a flood of the site
        window = known.alert.window(signal.start_ms, signal.end_ms)
        if window is None:
            return []
        if window[0] < signal.start_ms - MINUTE_MS:  # a new flood
            known.alert.close()
            window = known.alert.window(signal.start_ms, signal.end_ms) or window
        evidence = {
            **interval(due, variance),
            "score": score,
            "contributions": {"volume": 1.0},
            "excess_events": values["events"] - due,
            "confidence": 1 - math.exp(-score / 4),
            "genuine_share": min(1.0, due / max(values["events"], 1.0)),
            **self._site.baseline_evidence(signal.end_ms, error),
            "composition": {
                "users": [values["users"] / values["events"], 0.7],
                "buys": [values["buys"] / values["events"], self._site.mix.share("buys") or 0.0],
            },
        }
        measures = {"events": values["events"], "users": values["users"], "factor": values["events"] / max(due, 1.0)}
        return [_FLOODS[self._column].detection(Severity.HIGH, {self._column: name}, window, measures, evidence)]

    def _usual_hour(self) -> float:
        return max(self._site.total.expected * HOUR_MS / 10_000, self._site_minute * 60)

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
            elif known.hot_ms < end_ms - 2 * HOUR_MS:
                known.share += (min(share, 3 * known.share) - known.share) / _MEMORY
                known.updated_ms = end_ms
        self._keys = {
            name: key for name, key in self._keys.items() if not key.updated_ms or end_ms - key.updated_ms < _STALE_MS
        }

    def snapshot(self) -> Mapping[str, object]:
        """Usual shares and alerts."""
        return {
            "keys": {
                name: [key.share, key.error, key.updated_ms, key.hot, key.hot_ms, key.alert.snapshot()]
                for name, key in self._keys.items()
            },
            "now": [self._hours, self._site_minute, self._site_hour, self._forecast_minute, self._disturbed],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._keys = {
            name: _Key(share, error, updated_ms, hot, hot_ms, OpenAlert.of(alert))
            for name, (share, error, updated_ms, hot, hot_ms, alert) in state["keys"].items()
        }
        self._hours, self._site_minute, self._site_hour, self._forecast_minute, self._disturbed = state["now"]
