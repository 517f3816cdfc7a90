"""The algebra of incidents: detections of one rule and key, close in time, join into one episode.

An episode is a join of its detections: minimum, maximum and set union, so it does not matter in which order or in how
many batches they came, or whether some came twice. Two episodes are linked, and become one, when their windows overlap
or lie no further apart than `suppress_ms`.

What must not depend on the moment (when it was detected, the peak) is taken from final detections as soon as there is
one; until then the provisional ones stand in. An open window's detection is followed by a final one of the same window,
with at least its span, so the provisional values never outlive the episode.

How many windows fired cannot be counted by adding, because detections come again after a crash; and remembering every
window is unbounded. The watermark gives the middle way: windows that end after `settled_ms` are remembered one by one,
those before are counted and forgotten, and a detection from before `settled_ms` is a repetition.

The values are named tuples, which are made and compared several times faster than frozen dataclasses: five thousand
incidents change in one micro-batch when a botnet comes.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NamedTuple

from shopstream.detection.detection import SEVERITIES, Detection, Nature

NEVER_SETTLED = -(1 << 62)

_RANK = {severity: rank for rank, severity in enumerate(SEVERITIES)}

NATURES: tuple[Nature, ...] = tuple(Nature)
"""From what has to be acted on to what has not; several in one episode: the first counts. The place is stored."""

_VERDICTS = ("", "unknown", "human", "bot")
UNSTATED_CONFIDENCE = 0.8
"""Of a rule that says nothing about it: a fixed line that somebody has drawn with care."""


class Peak(NamedTuple):
    """The strongest window: the one whose first measure is the largest, then the next measures, then the earliest."""

    start_ms: int
    end_ms: int
    measures: Mapping[str, object]
    evidence: Mapping[str, object]

    def rank(self) -> tuple[object, ...]:
        """What peaks are compared by; total, so that the same windows give the same peak."""
        said = str(self.evidence) if self.evidence else ""
        return [_number(value) for value in self.measures.values()], -self.start_ms, str(self.measures), said


class RuleSnapshot(NamedTuple):
    """The rule as it was in the newest window, which ends at `end_ms`; it may be edited while its incident is open."""

    end_ms: int
    version: str
    title: str
    tags: tuple[str, ...]
    threshold: str


class Episode(NamedTuple):
    """Detections of one rule and key, joined.

    Args:
        start_ms, end_ms: hull of the windows.
        window_ms: the longest window.
        suppress_ms: quiet time that parts episodes.
        first_event_ms, last_event_ms: span of the events in the windows.
        severity: rank in SEVERITIES, the highest seen; a surge is informational, whatever the rule's level.
        detected_ms, detected_early_ms: smallest window end over final, and over open windows.
        peak, peak_early: likewise.
        nature: place in NATURES, the least seen.
        verdict: of the actor, the gravest seen; empty says nothing.
        confidence: 0 to 1, the highest seen.
        settled_ms, settled: windows that ended up to `settled_ms` were `settled` many.
        pending: start of each later window → its end, and whether it is final.
    """

    start_ms: int
    end_ms: int
    window_ms: int
    suppress_ms: int
    first_event_ms: int
    last_event_ms: int
    severity: int
    rule: RuleSnapshot
    detected_ms: int | None
    detected_early_ms: int | None
    peak: Peak | None
    peak_early: Peak | None
    pending: Mapping[int, tuple[int, bool]]
    nature: int = 0
    verdict: str = ""
    confidence: float = UNSTATED_CONFIDENCE
    settled_ms: int = NEVER_SETTLED
    settled: int = 0

    @property
    def closes_ms(self) -> int:
        """The watermark that closes it: no window that ends later can be linked any more."""
        return self.end_ms + self.suppress_ms + self.window_ms

    @property
    def strength(self) -> float:
        """The first measure of the strongest window so far; 0 where it is no number."""
        peak = self.peak or self.peak_early
        found = float(_number(next(iter(peak.measures.values()), None))) if peak else 0.0
        return found if math.isfinite(found) else 0.0

    @property
    def first_detected_ms(self) -> int:
        """End of the first window that met the rule; of open ones as long as none is final."""
        found = self.detected_ms if self.detected_ms is not None else self.detected_early_ms
        return self.end_ms if found is None else found

    @property
    def windows(self) -> int:
        """How many windows fired so far."""
        return self.settled + len(self.pending)


@lru_cache(maxsize=16_384)
def scope_of(rule_id: str, key: tuple[tuple[str, str], ...]) -> str:
    """Names rule and key, whatever the order of the key's columns: 16 hex characters."""
    return hashlib.sha256(json.dumps([rule_id, sorted(key)]).encode()).hexdigest()[:16]


def gather(detections: Sequence[Detection]) -> list[Episode]:
    """The episodes of detections of one scope, in order of time."""
    if len(detections) == 1:
        return [_of_one(detections[0])]
    groups: list[list[Detection]] = []
    end_ms = quiet_ms = 0
    for d in sorted(detections, key=lambda d: (d.start_ms, d.end_ms, d.final)):
        if groups and d.start_ms - end_ms <= max(quiet_ms, d.suppress_for_ms):
            groups[-1].append(d)
            end_ms, quiet_ms = max(end_ms, d.end_ms), max(quiet_ms, d.suppress_for_ms)
        else:
            groups.append([d])
            end_ms, quiet_ms = d.end_ms, d.suppress_for_ms
    return [_of_many(group) if len(group) > 1 else _of_one(group[0]) for group in groups]


def _of_one(d: Detection) -> Episode:
    peak = _peak(d)
    return Episode(
        start_ms=d.start_ms,
        end_ms=d.end_ms,
        window_ms=d.end_ms - d.start_ms,
        suppress_ms=d.suppress_for_ms,
        first_event_ms=d.first_event_ms,
        last_event_ms=d.last_event_ms,
        severity=_severity(d),
        rule=RuleSnapshot(d.end_ms, d.rule_version, d.title, d.tags, d.threshold),
        detected_ms=d.end_ms if d.final else None,
        detected_early_ms=None if d.final else d.end_ms,
        peak=peak if d.final else None,
        peak_early=None if d.final else peak,
        pending={d.start_ms: (d.end_ms, d.final)},
        nature=NATURES.index(d.nature),
        verdict=d.verdict or "",
        confidence=_confidence(d),
    )


def _of_many(detections: Sequence[Detection]) -> Episode:
    newest = max(detections, key=lambda d: (d.end_ms, d.rule_version))
    final = [d for d in detections if d.final]
    early = [d for d in detections if not d.final]
    pending: dict[int, tuple[int, bool]] = {}
    for d in detections:
        window = (d.end_ms, d.final)
        known = pending.get(d.start_ms)
        if known is None or _settledness(known) < _settledness(window):
            pending[d.start_ms] = window
    return Episode(
        start_ms=min([d.start_ms for d in detections]),
        end_ms=newest.end_ms,
        window_ms=max([d.end_ms - d.start_ms for d in detections]),
        suppress_ms=max([d.suppress_for_ms for d in detections]),
        first_event_ms=min([d.first_event_ms for d in detections]),
        last_event_ms=max([d.last_event_ms for d in detections]),
        severity=max([_severity(d) for d in detections]),
        rule=RuleSnapshot(newest.end_ms, newest.rule_version, newest.title, newest.tags, newest.threshold),
        detected_ms=min([d.end_ms for d in final], default=None),
        detected_early_ms=min([d.end_ms for d in early], default=None),
        peak=_strongest(final),
        peak_early=_strongest(early),
        pending=pending,
        nature=min([NATURES.index(d.nature) for d in detections]),
        verdict=max([d.verdict or "" for d in detections], key=_VERDICTS.index),
        confidence=max([_confidence(d) for d in detections]),
    )


def join(one: Episode, other: Episode) -> Episode:
    """The episode of both's detections; commutative, associative, and joining the same again changes nothing."""
    settled_ms = max(one.settled_ms, other.settled_ms)
    if NEVER_SETTLED not in (one.settled_ms, other.settled_ms):
        one, other = settle(one, settled_ms), settle(other, settled_ms)
    pending = {start: (end, final) for start, (end, final) in one.pending.items() if end > settled_ms}
    for start, window in other.pending.items():
        known = pending.get(start)
        if window[0] > settled_ms and (known is None or _settledness(known) < _settledness(window)):
            pending[start] = window
    newer = (one.rule.end_ms, one.rule.version) < (other.rule.end_ms, other.rule.version)
    return Episode(
        start_ms=min(one.start_ms, other.start_ms),
        end_ms=max(one.end_ms, other.end_ms),
        window_ms=max(one.window_ms, other.window_ms),
        suppress_ms=max(one.suppress_ms, other.suppress_ms),
        first_event_ms=min(one.first_event_ms, other.first_event_ms),
        last_event_ms=max(one.last_event_ms, other.last_event_ms),
        severity=max(one.severity, other.severity),
        rule=other.rule if newer else one.rule,
        detected_ms=_least(one.detected_ms, other.detected_ms),
        detected_early_ms=_least(one.detected_early_ms, other.detected_early_ms),
        peak=_stronger(one.peak, other.peak),
        peak_early=_stronger(one.peak_early, other.peak_early),
        pending=pending,
        nature=min(one.nature, other.nature),
        verdict=max(one.verdict, other.verdict, key=_VERDICTS.index),
        confidence=max(one.confidence, other.confidence),
        settled_ms=settled_ms,
        settled=one.settled + other.settled,
    )


def settle(episode: Episode, watermark_ms: int) -> Episode:
    """Count the windows that ended up to the watermark, and forget them one by one.

    An open window there was followed by a final one, maybe with an earlier start (a session that grew backwards):
    only final ones count.
    """
    over = [final for end, final in episode.pending.values() if end <= watermark_ms]
    if not over or watermark_ms <= episode.settled_ms:
        return episode
    return episode._replace(
        settled_ms=watermark_ms,
        settled=episode.settled + sum(over),
        pending={start: window for start, window in episode.pending.items() if window[0] > watermark_ms},
    )


def _settledness(window: tuple[int, bool]) -> tuple[bool, int]:
    end_ms, final = window
    return final, end_ms


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _strongest(detections: Sequence[Detection]) -> Peak | None:
    return max([_peak(d) for d in detections], key=Peak.rank, default=None)


def _peak(d: Detection) -> Peak:
    # as it will be read back: otherwise the same detection would not be the same after a restart
    return Peak(d.start_ms, d.end_ms, d.measures, json.loads(json.dumps(dict(d.evidence))) if d.evidence else {})


def _severity(d: Detection) -> int:
    return 0 if d.nature is Nature.SURGE else _RANK[d.severity]


def _confidence(d: Detection) -> float:
    said = d.evidence.get("confidence") if d.evidence else None
    return min(max(float(said), 0.0), 1.0) if isinstance(said, int | float) else UNSTATED_CONFIDENCE


def _stronger(one: Peak | None, other: Peak | None) -> Peak | None:
    if one is None or other is None or one == other:
        return one or other
    return other if one.rank() < other.rank() else one


def _number(value: object) -> float | Decimal:
    """A measure's rank; what is no number (text, null, NaN) stands below all numbers."""
    if type(value) is int:
        return value
    if isinstance(value, int | float):
        return -math.inf if value != value else value  # noqa: PLR0124  the definition of NaN
    if isinstance(value, str):
        try:
            number = Decimal(value)
        except InvalidOperation:
            return -math.inf
        return number if number.is_finite() else -math.inf
    return -math.inf
