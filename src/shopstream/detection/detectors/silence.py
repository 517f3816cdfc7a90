"""Detector 10a: no events arrive although some are due.

So many events were expected since the last one that the chance of none is below 1e-9 (Poisson), with the forecast
lowered by three errors. While the whole site is silent, its event types are not reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import BIN_MS, EVENT_TYPES, AlertTemplate, Detector, OpenAlert
from shopstream.detection.detectors.site_state import SILENCE_ODDS, SITE, SeriesState, SiteState
from shopstream.engine.signals import Signal

_THRESHOLD: Final = "so many events due that the chance of none is below 1e-9"
_SITE: Final = AlertTemplate(
    "silence", "silence-1", "No data for {silence_seconds}", (), Nature.FAULT, _THRESHOLD, 300_000
)
_TYPE: Final = AlertTemplate(
    "silence_type", "silence-1", "No {event_type} events for {silence_seconds}", (), Nature.FAULT, _THRESHOLD, 300_000
)


class SilenceDetector(Detector):
    """Silence of the site and of event types.

    Warm-up: that of the forecast. Minimum volume: about 21 events must have been due. A series of 1 event/s counts as
    silent after half a minute, one of an event a minute after half an hour.

    Args:
        site: the site's state.
    """

    id = "silence"

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._alerts = {name: OpenAlert() for name in site.series}

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  `site` has read them
        """See `Detector.observe`."""
        site, total = self._site, self._site.total
        if total.silent:
            return self._report(end_ms, {}, total, self._alerts[SITE], _SITE)
        self._alerts[SITE].close()
        detections = []
        for kind in EVENT_TYPES:
            name = f"event_type={kind}"
            series, alert = site.series[name], self._alerts[name]
            if not series.silent or site.recovering(end_ms) or not total.count:
                alert.close()
            else:
                detections += self._report(end_ms, {"event_type": kind}, series, alert, _TYPE)
        return detections

    def _report(
        self, end_ms: int, key: Mapping[str, str], series: SeriesState, alert: OpenAlert, template: AlertTemplate
    ) -> list[Detection]:
        since_ms = series.missed_since_ms or end_ms - BIN_MS
        window = alert.window(since_ms, end_ms)
        if window is None:
            return []
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
            **self._site.baseline_evidence(end_ms, error),
        }
        # The longest silence is the incident's peak: the first measure ranks windows.
        measures = {"silence_seconds": (end_ms - since_ms) / 1_000, "events": 0}
        return [template.detection(Severity.HIGH, key, window, measures, evidence)]

    def snapshot(self) -> Mapping[str, object]:
        """Alerts."""
        return {"alerts": {name: alert.snapshot() for name, alert in self._alerts.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._alerts = {name: OpenAlert.of(alert) for name, alert in state["alerts"].items()}
