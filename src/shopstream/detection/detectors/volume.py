"""Detector 1: more events than the hour of the week and the level of the day explain, on the site or of one type.

Two tests on bins of 10 s. *Jump*: two bins in a row more than 6 standard deviations above the forecast, chance and
forecast error together. *Drift*: a CUSUM of what lies above the forecast by more than 3 forecast errors, in standard
deviations of chance, reaches 60. The composition of the excess decides between attack and surge (`surge_classifier`).
A surge that stays becomes the new level; falling levels are followed silently.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import (
    BIN_MS,
    EVENT_TYPES,
    SITE_10S,
    TAIL_10S,
    AlertTemplate,
    Detector,
    OpenAlert,
    interval,
)
from shopstream.detection.detectors.site_state import SITE, SeriesState, SiteState
from shopstream.detection.detectors.surge_classifier import Classification, Excess
from shopstream.engine.signals import QUIET, Signal

_JUMP: Final = 6.0
_JUMP_BINS: Final = 2
_DRIFT: Final = 3.0
_HEIGHT: Final = 60.0
_SUSPECT: Final = 3.0
_ACTIVE: Final = _SUSPECT + 1
_STEADY: Final = 20.0
"""Below a CUSUM of this, the forecast keeps learning."""
_PATIENCE: Final = 5
"""After so many bins, an excess without a sign of an attack counts as a surge."""
_CALM_BINS: Final = 3
_NEW_LEVEL_MS: Final = 1_800_000
_GIVE_IN_MS: Final = 86_400_000
"""A flood that lasts a day was none, or is normal by now."""
_TYPE_GIVE_IN_MS: Final = 2 * 3_600_000
_FORMER_MS: Final = 86_400_000
_WINDOW: Final = 30
_MANY: Final = 2.0

_TAGS: Final = ("owasp.oat-015", "attack.t1498", "attack.t1499")
_THRESHOLD: Final = "two consecutive 10 s bins more than 6 standard deviations above the forecast, or a sustained rise"
_FLOOD: Final = AlertTemplate(
    "volume",
    "volume-1",
    "Possible DDoS: traffic {factor}x expected",
    _TAGS,
    Nature.ATTACK,
    _THRESHOLD,
    300_000,
)
_TYPE_FLOOD: Final = AlertTemplate(
    "volume",
    "volume-1",
    "Possible DDoS: {event_type} events {factor}x expected",
    _TAGS,
    Nature.ATTACK,
    _THRESHOLD,
    300_000,
)
_SURGE: Final = AlertTemplate(
    "volume_surge",
    "volume-1",
    "Surge of genuine shoppers: traffic {factor}x expected",
    (),
    Nature.SURGE,
    _THRESHOLD,
    3_600_000,
)


@dataclass(slots=True)
class _Watch:
    """Tests of one series."""

    rise: float = 0.0
    fall: float = 0.0
    falling: int = 0
    hot: int = 0
    calm: int = 0
    open: bool = False
    started_ms: int = 0
    suspect_ms: int | None = None
    former: float | None = None
    former_until_ms: int = 0
    excess: Excess = field(default_factory=Excess)
    flood: OpenAlert = field(default_factory=OpenAlert)
    surge: OpenAlert = field(default_factory=OpenAlert)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def reset(self) -> None:
        """The series is normal again."""
        self.rise, self.hot, self.calm, self.open, self.suspect_ms = 0.0, 0, 0, False, None
        self.excess = Excess()
        self.flood.close()
        self.surge.close()

    def test(self, series: SeriesState) -> None:
        """Update both tests with the series' bin."""
        unit = math.sqrt(series.expected + 1)
        error = series.forecast.error
        above = (series.count - series.expected * (1 + _DRIFT * error)) / unit
        below = (series.expected * (1 - _DRIFT * error) - series.count) / unit
        self.rise = min(max(0.0, self.rise + above), 2 * _HEIGHT)
        self.fall = max(0.0, self.fall + below)
        self.falling = self.falling + 1 if self.fall else 0
        self.hot = self.hot + 1 if series.score > _JUMP else 0

    def gather(self, end_ms: int, series: SeriesState, counts: Mapping[str, float]) -> None:
        """Sum up the excess, from the first suspicious bin on."""
        if not self.open and self.rise <= 0 and series.score <= _SUSPECT:
            self.suspect_ms = None
            self.excess = Excess()
            return
        if self.suspect_ms is None:
            self.suspect_ms = end_ms - BIN_MS
        self.excess.add(counts, series.expected)

    def is_open(self, end_ms: int, series: SeriesState) -> bool:
        """Open or close by the tests' results."""
        if not self.open:
            hot = self.hot >= _JUMP_BINS or self.rise >= _HEIGHT
            if hot and self._is_former(end_ms, series):
                return False
            self.open, self.started_ms = hot, end_ms
            return hot
        active = series.score > _ACTIVE or self.rise >= _HEIGHT
        self.calm = 0 if active else self.calm + 1
        if self.calm >= _CALM_BINS:
            self.reset()
        return self.open

    def _is_former(self, end_ms: int, series: SeriesState) -> bool:
        """Whether the series is back at the level from which it fell: some trackers were offline."""
        if self.former is None or end_ms > self.former_until_ms:
            return False
        forecast = series.forecast
        due = series.expected / max(forecast.level, 1e-9) * self.former
        if series.count > due * (1 + _DRIFT * forecast.error) + 3 * math.sqrt(due + 1):
            return False
        forecast.level = self.former
        self.former = None
        self.reset()
        return True

    def follow_down(self, end_ms: int, series: SeriesState) -> None:
        """Lower the forecast's level once a fall is certain."""
        if self.fall >= _HEIGHT:
            if self.former is None or end_ms > self.former_until_ms:
                self.former, self.former_until_ms = series.forecast.level, end_ms + _FORMER_MS
            recent = list(self.recent)[-max(self.falling, _CALM_BINS) :]
            series.forecast.anchor(end_ms, sum(recent), len(recent) * BIN_MS)
            self.fall = 0.0


class VolumeDetector(Detector):
    """Floods and surges of the site and of event types.

    Warm-up: two minutes with baselines, half an hour without. Minimum volume: none for floods that bring more than
    about 20 events in 10 s; an excess of half needs about 5 events/s to be found in six minutes.

    Args:
        site: the site's state, which this detector updates.
        silent: update it, but report nothing.
    """

    id = "volume"
    windows = (SITE_10S,)
    other_signals = (TAIL_10S, QUIET)

    def __init__(self, site: SiteState, *, silent: bool = False) -> None:
        self._site = site
        self._silent = silent
        self._watches = {name: _Watch() for name in site.series}

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`."""
        site = self._site
        if signals and signals[0].window == QUIET:
            site.begin_quiet(end_ms)
            return []
        site.read(end_ms, signals)
        detections = self._test_total(end_ms)
        for kind in EVENT_TYPES:
            name = f"event_type={kind}"
            detections += self._test_type(end_ms, kind, site.series[name], self._watches[name])
        if site.settled(end_ms):
            site.mix.learn(site.counts)
        return [] if self._silent else detections

    def _test_total(self, end_ms: int) -> list[Detection]:
        site, series, watch = self._site, self._site.total, self._watches[SITE]
        watch.recent.append(series.count)
        if not series.forecast.warm:
            series.forecast.learn(end_ms, series.count)
            return []
        if site.silent or (not series.count and series.missed > 1):
            series.forecast.skip()
            watch.fall = 0.0
            return []
        watch.test(series)
        if site.recovering(end_ms) and not watch.flood.since_ms:
            watch.rise = min(watch.rise, _STEADY)
        watch.gather(end_ms, series, site.counts)
        detections: list[Detection] = []
        if watch.is_open(end_ms, series):
            series.forecast.skip()
            detections = self._classify(end_ms, series, watch)
            self._give_in(end_ms, series, watch)
        elif watch.rise < _STEADY and series.score <= _ACTIVE and not site.recovering(end_ms):
            series.forecast.learn(end_ms, series.count)
            watch.follow_down(end_ms, series)
        else:
            series.forecast.skip()
        if watch.open or series.score > _ACTIVE or watch.rise >= _STEADY:
            site.unsettle(end_ms)
        site.attack = watch.flood.since_ms is not None
        site.surge = watch.surge.since_ms is not None
        return detections

    def _classify(self, end_ms: int, series: SeriesState, watch: _Watch) -> list[Detection]:
        recovering, excess = self._site.recovering(end_ms), watch.excess
        found = excess.classify(self._site.mix, recovering=recovering)
        since_ms = end_ms - BIN_MS if watch.suspect_ms is None else watch.suspect_ms
        attack = found.attack or watch.flood.since_ms is not None
        if not attack and (excess.bins < _PATIENCE or recovering):
            return []
        alert, template = (watch.flood, _FLOOD) if attack else (watch.surge, _SURGE)
        window = alert.window(since_ms, end_ms)
        if window is None:
            return []
        many = excess.counts["events"] >= _MANY * excess.expected
        severity = Severity.INFORMATIONAL if not attack else Severity.CRITICAL if many else Severity.HIGH
        if attack:
            watch.surge.close()
        measures, evidence = self._facts(window, series, watch, found, attack=attack)
        return [template.detection(severity, {}, window, measures, evidence)]

    def _facts(
        self,
        window: tuple[int, int],
        series: SeriesState,
        watch: _Watch,
        found: Classification | None,
        *,
        attack: bool,
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Measures and evidence."""
        excess, error = watch.excess, series.forecast.error
        expected, observed = excess.expected, excess.expected + excess.events
        score = max(series.score, watch.rise / _HEIGHT * _JUMP)
        evidence: dict[str, object] = {
            **interval(expected, expected + (error * expected) ** 2),
            "score": score,
            "excess_events": max(0.0, excess.events),
            "genuine_share": min(1.0, expected / max(observed, 1.0)) if attack else 1.0,
            **self._site.baseline_evidence(window[1], error),
            "confidence": 1 - math.exp(-max(score, 1) / 3),
        }
        if found is not None:
            evidence["contributions"] = found.contributions or {"volume": 1.0}
            evidence["composition"] = found.composition
        return {"events": observed, "expected": expected, "factor": observed / max(expected, 1.0)}, evidence

    def _give_in(self, end_ms: int, series: SeriesState, watch: _Watch) -> None:
        """Take the present level as normal: a surge's soon, a flood's after long."""
        patience_ms = _NEW_LEVEL_MS
        if watch.flood.since_ms is not None:
            patience_ms = _GIVE_IN_MS if series is self._site.total else _TYPE_GIVE_IN_MS
        if end_ms - watch.started_ms >= patience_ms:
            if watch.former is None:
                watch.former, watch.former_until_ms = series.forecast.level, end_ms + _FORMER_MS
            before = series.forecast.level
            series.forecast.anchor(end_ms, sum(watch.recent), len(watch.recent) * BIN_MS)
            watch.reset()
            if series is self._site.total:
                self._site.begin_sale(end_ms, before)

    def _test_type(self, end_ms: int, kind: str, series: SeriesState, watch: _Watch) -> list[Detection]:
        """One event type; while the site's volume is unusual, it follows from that."""
        site, forecast = self._site, series.forecast
        watch.recent.append(series.count)
        if forecast.flat or not forecast.warm:  # shares of types have hours of their own
            if site.settled(end_ms):
                forecast.learn(end_ms, series.count)
            else:
                forecast.skip()
            return []
        if not site.settled(end_ms) and not watch.open:
            forecast.skip()
            watch.reset()
            return []
        watch.test(series)
        watch.gather(end_ms, series, {"events": series.count})
        detections: list[Detection] = []
        if watch.is_open(end_ms, series):
            forecast.skip()
            window = watch.flood.window(watch.suspect_ms or end_ms - BIN_MS, end_ms)
            if window and kind != "view":
                facts = self._facts(window, series, watch, None, attack=True)
                detections.append(_TYPE_FLOOD.detection(Severity.HIGH, {"event_type": kind}, window, *facts))
            self._give_in(end_ms, series, watch)
        elif not series.silent and watch.rise < _STEADY and series.score <= _ACTIVE:
            forecast.learn(end_ms, series.count)
            watch.follow_down(end_ms, series)
        else:
            forecast.skip()
        return detections

    def snapshot(self) -> Mapping[str, object]:
        """The site's state and that of the tests."""
        return {
            "site": self._site.snapshot(),
            "watches": {name: {**asdict(watch), "recent": list(watch.recent)} for name, watch in self._watches.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._site.restore(state["site"])
        for name, held in state["watches"].items():
            self._watches[name] = _Watch(
                **held
                | {
                    "excess": Excess(**held["excess"]),
                    "flood": OpenAlert(**held["flood"]),
                    "surge": OpenAlert(**held["surge"]),
                    "recent": deque(held["recent"], maxlen=_WINDOW),
                }
            )
