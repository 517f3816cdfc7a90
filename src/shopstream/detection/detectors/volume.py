"""Detector 1: more events than the time of the week and the level of the day explain, on the site or of one type.

Two tests on bins of 10 s. *Jump*: two bins in a row more than 6 standard deviations above the forecast, chance and
forecast error together. *Drift*: a CUSUM of what lies above the forecast by more than 3 forecast errors, in standard
deviations of chance, reaches 60. What is found is an attack or an organic surge by what the excess is made of
(`detectors.mix`); a surge that stays becomes the new level, and levels that fall are followed without a word.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import BIN_MS, AlertTemplate, OpenAlert, interval
from shopstream.detection.detectors.site_state import SITE, SeriesState, SiteState
from shopstream.detection.detectors.surge_classifier import Classification, Excess
from shopstream.detection.windows import EVENT_TYPES, SITE_10S, TAIL_10S
from shopstream.engine.signals import QUIET, Signal
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError

__all__ = ["VolumeDetector"]

_VERSION: Final = 1
_JUMP: Final = 6.0
_JUMP_BINS: Final = 2
_DRIFT: Final = 3.0
_HEIGHT: Final = 60.0
_SUSPECT: Final = 3.0
_STEADY: Final = 20.0
"""Below a CUSUM of this the forecast goes on learning."""
_PATIENCE: Final = 5
"""Bins until an excess without a sign of an attack is called a surge."""
_CALM_BINS: Final = 3
_NEW_LEVEL_MS: Final = 1_800_000
_GIVE_IN_MS: Final = 86_400_000
"""A flood that lasts a day was none, or is normal by now."""
_TYPE_GIVE_IN_MS: Final = 2 * 3_600_000
_FORMER_MS: Final = 86_400_000
_WINDOW: Final = 30
_MANY: Final = 2.0

_TAGS = ("owasp.oat-015", "attack.t1498", "attack.t1499")
_THRESHOLD = "2 bins > 6 sigma or CUSUM(drift 3 errors) > 60"
_FLOOD = AlertTemplate(
    "volume", "volume-1", "Flood: more events than the hour explains", _TAGS, Nature.ATTACK, _THRESHOLD, 300_000
)
_SURGE = AlertTemplate("volume_surge", "volume-1", "Organic surge", (), Nature.SURGE, _THRESHOLD, 3_600_000)


@dataclass(slots=True)
class _Watch:
    """Tests on one series."""

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
        """Nothing is suspicious any more."""
        self.rise, self.hot, self.calm, self.open, self.suspect_ms = 0.0, 0, 0, False, None
        self.excess = Excess()
        self.flood.end()
        self.surge.end()

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


class VolumeDetector:
    """Floods and surges of the site and of event types.

    Warm-up: two minutes with baselines, half an hour without. Minimum volume: none for floods that bring more than
    about 20 events in 10 s; an excess of half needs about 5 events/s to be found in six minutes.

    Args:
        site: the site's state, which this detector keeps.
        silent: keep it, and say nothing.
    """

    id: Final = "volume"
    windows: Sequence[WindowDeclaration] = (SITE_10S,)
    other_signals: Sequence[str] = (TAIL_10S, QUIET)

    def __init__(self, site: SiteState, *, silent: bool = False) -> None:
        self._site = site
        self._silent = silent
        self._watches = {name: _Watch() for name in site.series}

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin."""
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
        self._suspect(end_ms, series, watch, site.counts)
        detections: list[Detection] = []
        if self._is_open(end_ms, series, watch):
            series.forecast.skip()
            detections = self._judge(end_ms, series, watch)
            self._give_in(end_ms, series, watch)
        elif watch.rise < _STEADY and series.score <= _SUSPECT + 1 and not site.recovering(end_ms):
            series.forecast.learn(end_ms, series.count)
            self._follow_down(end_ms, series, watch)
        else:
            series.forecast.skip()
        if watch.open or series.score > _SUSPECT + 1 or watch.rise >= _STEADY:
            site.unsettle(end_ms)
        site.attack = watch.flood.since_ms is not None
        site.surge = watch.surge.since_ms is not None
        return detections

    def _suspect(self, end_ms: int, series: SeriesState, watch: _Watch, counts: Mapping[str, float]) -> None:
        """Gather what the excess is made of, from the first bin on that looks suspicious."""
        if not watch.open and watch.rise <= 0 and series.score <= _SUSPECT:
            watch.suspect_ms = None
            watch.excess = Excess()
            return
        if watch.suspect_ms is None:
            watch.suspect_ms = end_ms - BIN_MS
        watch.excess.add(counts, series.expected)

    def _is_open(self, end_ms: int, series: SeriesState, watch: _Watch) -> bool:
        if not watch.open:
            hot = watch.hot >= _JUMP_BINS or watch.rise >= _HEIGHT
            if hot and self._is_former(end_ms, series, watch):
                return False
            watch.open, watch.started_ms = hot, end_ms
            return hot
        active = series.score > _SUSPECT + 1 or watch.rise >= _HEIGHT
        watch.calm = 0 if active else watch.calm + 1
        if watch.calm >= _CALM_BINS:
            watch.reset()
        return watch.open

    def _is_former(self, end_ms: int, series: SeriesState, watch: _Watch) -> bool:
        """Back at the level from which it fell: a part of the trackers was away."""
        if watch.former is None or end_ms > watch.former_until_ms:
            return False
        forecast = series.forecast
        due = series.expected / max(forecast.level, 1e-9) * watch.former
        if series.count > due * (1 + _DRIFT * forecast.error) + 3 * math.sqrt(due + 1):
            return False
        forecast.level = watch.former
        watch.former = None
        watch.reset()
        return True

    def _judge(self, end_ms: int, series: SeriesState, watch: _Watch) -> list[Detection]:
        recovering = self._site.recovering(end_ms)
        excess, judged = watch.excess, watch.excess.judge(self._site.mix, recovering=recovering)
        since_ms = end_ms - BIN_MS if watch.suspect_ms is None else watch.suspect_ms
        attack = judged.attack or watch.flood.since_ms is not None
        if not attack and (excess.bins < _PATIENCE or recovering):
            return []
        spell, finding = (watch.flood, _FLOOD) if attack else (watch.surge, _SURGE)
        span = spell.span(since_ms, end_ms)
        if span is None:
            return []
        many = excess.counts["events"] >= _MANY * excess.expected
        severity = Severity.INFORMATIONAL if not attack else Severity.CRITICAL if many else Severity.HIGH
        if attack:
            watch.surge.end()
        return [self._told((finding, severity, {}), span, series, watch, judged)]

    def _told(
        self,
        words: tuple[AlertTemplate, Severity, Mapping[str, str]],
        span: tuple[int, int],
        series: SeriesState,
        watch: _Watch,
        judged: Classification | None,
    ) -> Detection:
        finding, severity, key = words
        excess, error = watch.excess, series.forecast.error
        expected, observed = excess.expected, excess.expected + excess.events
        evidence: dict[str, object] = {
            **interval(expected, expected + (error * expected) ** 2),
            "score": max(series.score, watch.rise / _HEIGHT * _JUMP),
            "excess_events": max(0.0, excess.events),
            "genuine_share": min(1.0, expected / max(observed, 1.0)) if finding.nature is Nature.ATTACK else 1.0,
            "baseline_age_ms": self._site.age_ms(span[1]),
            "forecast_error": error,
            "confidence": 1 - math.exp(-max(series.score, watch.rise / _HEIGHT * _JUMP, 1) / 3),
        }
        if judged is not None:
            evidence["contributions"] = judged.contributions or {"volume": 1.0}
            evidence["composition"] = judged.composition
        measures = {"events": observed, "expected": expected, "factor": observed / max(expected, 1.0)}
        return finding.detection(severity, key, span, measures, evidence)

    def _give_in(self, end_ms: int, series: SeriesState, watch: _Watch) -> None:
        """A surge that stays is the new level; so is, in the end, anything."""
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

    def _follow_down(self, end_ms: int, series: SeriesState, watch: _Watch) -> None:
        if watch.fall >= _HEIGHT:
            if watch.former is None or end_ms > watch.former_until_ms:
                watch.former, watch.former_until_ms = series.forecast.level, end_ms + _FORMER_MS
            recent = list(watch.recent)[-max(watch.falling, _CALM_BINS) :]
            series.forecast.anchor(end_ms, sum(recent), len(recent) * BIN_MS)
            watch.fall = 0.0

    def _test_type(self, end_ms: int, kind: str, series: SeriesState, watch: _Watch) -> list[Detection]:
        """One event type; it follows from the site's volume while that is unusual."""
        site = self._site
        watch.recent.append(series.count)
        forecast = series.forecast
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
        self._suspect(end_ms, series, watch, {"events": series.count})
        detections: list[Detection] = []
        if self._is_open(end_ms, series, watch):
            forecast.skip()
            span = watch.flood.span(watch.suspect_ms or end_ms - BIN_MS, end_ms)
            if span and kind != "view":
                detections.append(
                    self._told((_FLOOD, Severity.HIGH, {"event_type": kind}), span, series, watch, judged=None)
                )
            self._give_in(end_ms, series, watch)
        elif not series.silent and watch.rise < _STEADY and series.score <= _SUSPECT + 1:
            forecast.learn(end_ms, series.count)
            self._follow_down(end_ms, series, watch)
        else:
            forecast.skip()
        return detections

    def snapshot(self) -> Mapping[str, object]:
        """The site's state and that of the tests."""
        return {
            "version": _VERSION,
            "site": self._site.snapshot(),
            "watches": {name: {**asdict(watch), "recent": list(watch.recent)} for name, watch in self._watches.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError("the volume detector's snapshot is of another version; it begins afresh")
        self._site.restore(state["site"])
        for name, held in state["watches"].items():
            self._watches[name] = _Watch(
                **{
                    **held,
                    "excess": Excess(**held["excess"]),
                    "flood": OpenAlert(**held["flood"]),
                    "surge": OpenAlert(**held["surge"]),
                    "recent": deque(held["recent"], maxlen=_WINDOW),
                }
            )
