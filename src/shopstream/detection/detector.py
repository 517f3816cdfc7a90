"""What a detector is, the windows that several detectors read, and how a detector reports.

A rule's condition sees one window; a detector compares windows with what it remembers. Detections are filled from a
template, and repeated while the alert stays open.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.rule_matcher import detection_id
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind


def tumbling(
    name: str,
    size_ms: int,
    measures: Mapping[str, str],
    *,
    key: tuple[str, ...] = (),
    condition: str | None = None,
    filter_: str | None = None,
) -> WindowDeclaration:
    """A tumbling window; see `WindowDeclaration`."""
    return WindowDeclaration(name, WindowKind.TUMBLING, key, measures, size_ms, filter=filter_, condition=condition)


PRICE_SIGNAL: Final = "detect_price_10s"
"""Key product_id; measures events, lowest, highest (seen), low, high (usual prices)."""

DUPLICATE_SIGNAL: Final = "detect_duplicates_10s"
"""For the site; measure duplicates: events that the engine dropped as duplicates."""

TAIL_10S: Final = "detect_tail_10s"
TAIL_60S: Final = "detect_tail_60s"
"""For the site; measures tail_users, tail_products, spread_users, spread_products: distinct users and products among
the events on rarely viewed products (the tail). `spread` leaves out the category with the most of these events."""

PRICE_FACTOR: Final = 2.0
"""A price is wrong below the lowest usual price divided by this, or above the highest one times this."""

EVENT_TYPES: Final = {
    "view": "views",
    "cart": "carts",
    "remove_from_cart": "removes",
    "purchase": "purchases",
}
"""Event type → the measure that counts it."""

_COUNTS: Final = {
    "events": "count(*)",
    **{measure: f"count(*) filter (where event_type = '{kind}')" for kind, measure in EVENT_TYPES.items()},
    "users": "count(distinct user_id)",
    "new_users": "count(*) filter (where new_user)",
}

SITE_10S: Final = tumbling("detect_site_10s", 10_000, _COUNTS)
"""Events by type, and users."""

SITE_60S: Final = tumbling(
    "detect_site_60s",
    60_000,
    {
        **_COUNTS,
        "buyers": "count(distinct user_id) filter (where event_type in ('cart', 'purchase'))",
        "no_brand": "count(*) filter (where brand is null)",
        "no_category_code": "count(*) filter (where category_code is null)",
        "no_session": "count(*) filter (where user_session is null)",
    },
)
"""Composition of a minute."""

BIN_MS: Final = 10_000
"""Detectors receive event time in bins of this length; their windows end on multiples of it."""

REPEAT_MS: Final = 60_000
"""An open alert is reported this often."""


class Detector(ABC):
    """Deterministic, with no clock but event time, and a small state.

    Each bin is handed over once, in order, when the watermark has passed its end; empty bins too. So the same bins give
    the same detections, whatever the batches were.
    """

    id: str
    """Unique among rules and detectors; the `rule_id` of its detections begins with it."""
    version: int = 1
    """Increase it when the form of the snapshot changes: a snapshot of another version is not restored."""
    windows: Sequence[WindowDeclaration] = ()
    """Windows it reads; equal declarations of several detectors are computed once."""
    other_signals: Sequence[str] = ()
    """Names of other signals it reads, which come from operators (see `DetectorRunner`)."""

    @abstractmethod
    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """Process one bin.

        Args:
            end_ms: its end, a multiple of BIN_MS, epoch milliseconds of event time.
            signals: final signals of the detector's windows that end there, by window and key; may be empty.
        """

    @abstractmethod
    def snapshot(self) -> Mapping[str, object]:
        """The state, JSON-ready."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot of this version."""


@dataclass(frozen=True, slots=True)
class AlertTemplate:
    """What all detections of one kind have in common.

    Args:
        rule_id: begins with the detector's id.
        version: of the detector; changes when its decisions do.
        title: for people; may name measures and key columns, see `wording.fill_title`.
        tags: labels.
        nature: attack, fault or surge.
        threshold: the decision as text.
        suppress_for_ms: quiet time after which the incident closes.
    """

    rule_id: str
    version: str
    title: str
    tags: tuple[str, ...]
    nature: Nature
    threshold: str
    suppress_for_ms: int = 600_000

    def detection(
        self,
        severity: Severity,
        key: Mapping[str, str],
        window_ms: tuple[int, int],
        measures: Mapping[str, object],
        evidence: Mapping[str, object],
    ) -> Detection:
        """One detection; `window_ms` is [start, end)."""
        start_ms, end_ms = window_ms
        return Detection(
            detection_id=detection_id(self.rule_id, key, start_ms),
            rule_id=self.rule_id,
            rule_version=self.version,
            title=self.title,
            severity=severity,
            tags=self.tags,
            key_kind="+".join(key) or "site",
            key=dict(key),
            start_ms=start_ms,
            end_ms=end_ms,
            first_event_ms=start_ms,
            last_event_ms=end_ms - 1,
            measures={name: _rounded(value) for name, value in measures.items()},
            threshold=self.threshold,
            final=True,
            suppress_for_ms=self.suppress_for_ms,
            nature=self.nature,
            evidence={name: _rounded(value) for name, value in evidence.items() if value is not None},
        )


def interval(expected: float, variance: float) -> dict[str, float]:
    """`expected`, `low` and `high`: three standard deviations to each side."""
    wide = 3 * variance**0.5
    return {"expected": expected, "low": max(0.0, expected - wide), "high": expected + wide}


def _rounded(value: object) -> object:
    """Four significant digits: enough for people, and the same on every machine."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


@dataclass(slots=True)
class OpenAlert:
    """An alert that stays open while its cause lasts: since when (None: closed), and when it was last reported."""

    since_ms: int | None = None
    reported_ms: int = 0

    def window(self, start_ms: int, end_ms: int) -> tuple[int, int] | None:
        """The window to report now; None while the last report is recent.

        Args:
            start_ms: where the alert begins, if it is not open yet.
            end_ms: of the current bin.
        """
        if self.since_ms is None:
            self.since_ms, self.reported_ms = start_ms, end_ms
            return start_ms, end_ms
        if end_ms - self.reported_ms < REPEAT_MS:
            return None
        window = self.reported_ms, end_ms
        self.reported_ms = end_ms
        return window

    def close(self) -> None:
        """The cause is over."""
        self.since_ms = None

    def snapshot(self) -> list[int | None]:
        """JSON-ready."""
        return [self.since_ms, self.reported_ms]

    @staticmethod
    def of(state: Sequence[int | None]) -> "OpenAlert":
        """From a snapshot."""
        return OpenAlert(state[0], state[1] or 0)
