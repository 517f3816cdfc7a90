"""Detector 10a: nothing comes where something must.

So many events were expected since the last one that none of them would come once in 1e9 times (Poisson), the forecast
taken low by three errors. A silent site makes silent types no news.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import BIN_MS, AlertTemplate, OpenAlert
from shopstream.detection.detectors.site_state import SILENCE_ODDS, SITE, SeriesState, SiteState
from shopstream.detection.windows import EVENT_TYPES
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError

__all__ = ["SilenceDetector"]

_VERSION: Final = 1
_THRESHOLD: Final = "Poisson P(0) < 1e-9"
_SITE = AlertTemplate("silence", "silence-1", "No events at all", (), Nature.FAULT, _THRESHOLD, 300_000)
_TYPE = AlertTemplate("silence_type", "silence-1", "No events of one type", (), Nature.FAULT, _THRESHOLD, 300_000)


class SilenceDetector:
    """Silence of the site and of event types.

    Warm-up: that of the forecast. Minimum volume: about 21 events must have been expected, so a series of 1 event/s
    is called silent after half a minute, one of an event a minute after half an hour.

    Args:
        site: the site's state.
    """

    id: Final = "silence"
    windows: Sequence[WindowDeclaration] = ()
    other_signals: Sequence[str] = ()

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._spells = {name: OpenAlert() for name in site.series}

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  the volume detector has read them
        """One bin."""
        site, total = self._site, self._site.total
        if total.silent:
            found = self._tell(end_ms, {}, total, self._spells[SITE], _SITE)
            return [found] if found else []
        self._spells[SITE].end()
        detections = []
        for kind in EVENT_TYPES:
            name = f"event_type={kind}"
            series, spell = site.series[name], self._spells[name]
            if not series.silent or site.recovering(end_ms) or not total.count:
                spell.end()
                continue
            found = self._tell(end_ms, {"event_type": kind}, series, spell, _TYPE)
            detections += [found] if found else []
        return detections

    def _tell(
        self, end_ms: int, key: Mapping[str, str], series: SeriesState, spell: OpenAlert, finding: AlertTemplate
    ) -> Detection | None:
        since_ms = series.missed_since_ms or end_ms - BIN_MS
        span = spell.span(since_ms, end_ms)
        if span is None:
            return None
        error = series.forecast.error
        missed = series.missed / max(0.1, 1 - 3 * error)
        evidence = {
            "expected": missed,
            "low": series.missed,
            "high": missed * (1 + 3 * error),
            "score": series.missed / SILENCE_ODDS,
            "contributions": {"silence": 1.0},
            "excess_events": -missed,
            "confidence": 1 - 1e-9,
            "genuine_share": 1.0,
            "baseline_age_ms": self._site.age_ms(end_ms),
            "forecast_error": error,
        }
        return finding.detection(
            Severity.HIGH, key, span, {"events": 0, "silent_s": (end_ms - since_ms) / 1_000}, evidence
        )

    def snapshot(self) -> Mapping[str, object]:
        """What is told already."""
        return {"version": _VERSION, "spells": {name: spell.snapshot() for name, spell in self._spells.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError("the silence detector's snapshot is of another version; it begins afresh")
        self._spells = {name: OpenAlert.of(spell) for name, spell in state["spells"].items()}
