"""Detector 9: many ids, one source. A botnet changes ids; its client software, its networks or the way it walks from
product to product it does not.

*Clients and networks* (`agent_hash`, `ip_net`; only where events carry them): the share of the minute's events that
comes from one of them against the 95th percentile of that share in the last seven days. Fast: one minute, at least 8
ids and 8 standard deviations. Slow: ten minutes together, at least 12 ids that were never seen before and 6 standard
deviations. A shop that is busier than usual has the same shares.

*Walks* (pairs of a shopper's successive products): in five minutes at least 8 products from each of which several
shoppers went on to the same next one, 6 standard deviations above the pair's usual share. A sale has many pairs among
few products; a list of addresses that is worked off has one successor for each product.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from shopstream.detection.baseline import DAY_MS
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import AlertTemplate, OpenAlert, interval
from shopstream.detection.share_quantiles import ShareQuantiles
from shopstream.detection.space_saving import SpaceSaving
from shopstream.detection.windows import SITE_60S
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import StateError

__all__ = ["AGENT_MINUTE", "NET_MINUTE", "WALK_FIVE", "CoordinationDetector"]

_VERSION: Final = 1
_MINUTE_MS: Final = 60_000
_WALK_MS: Final = 300_000
_CAPACITY: Final = 256
"""Keys of each kind whose history is kept: every one with more than 1/256 of the events."""
_QUANTILE: Final = 0.95
_WARM_UP_MS: Final = 2 * 3_600_000
_LEAST_EVENTS: Final = 60.0
"""Of the site, in a window that is judged."""
_FACTOR, _MORE = 1.5, 0.01
"""The share has to be so much above the percentile: times, and plus."""
_FLOOR: Final = 0.002
"""A key that was never seen is expected to bring this share."""
_STALE: Final = 0.05
"""Relative error of the percentile."""
_FAST_IDS, _FAST_SCORE = 8, 8.0
_SLOW_MS, _SLOW_NEW_IDS, _SLOW_SCORE = 600_000, 12, 6.0
_WALK_STEPS, _WALK_SCORE, _WALK_FLOOR, _WALK_BRANCHING = 8, 6.0, 0.0003, 1.5
_QUIET_MS: Final = 300_000
_ADOPT_MS: Final = DAY_MS
"""What goes on for a day is how things are now, and is learned."""
_VERDICT_SHARE: Final = 0.1
"""A client or network is called a bot's only if at most this share of its events is estimated to be genuine."""
_TAGS: Final = ("owasp.oat-011", "owasp.oat-015", "attack.t1498", "attack.t1583.005")


def _minute(name: str, column: str) -> WindowDeclaration:
    return WindowDeclaration(
        name=name,
        kind=WindowKind.TUMBLING,
        key=(column,),
        size_ms=_MINUTE_MS,
        measures={
            "events": "count(*)",
            "actors": "count(distinct user_id)",
            "new_ids": "count(*) filter (where new_user)",
        },
        condition="events >= 5",
    )


AGENT_MINUTE: Final = _minute("detect_agent_60s", "agent_hash")
NET_MINUTE: Final = _minute("detect_net_60s", "ip_net")
WALK_FIVE: Final = WindowDeclaration(
    name="detect_walk_300s",
    kind=WindowKind.TUMBLING,
    key=("previous_product_id", "product_id"),
    size_ms=_WALK_MS,
    filter="previous_product_id <> product_id",
    measures={"events": "count(*)", "actors": "count(distinct user_id)"},
    condition="events >= 4 and actors >= 4",
)

_SOURCES: Final = {
    AGENT_MINUTE.name: AlertTemplate(
        "coordination_agent",
        "coordination-1",
        "Many shoppers with one client software",
        _TAGS,
        Nature.ATTACK,
        "share > 1.5 x its 7-day p95, 8 sigma in a minute or 6 in ten",
    ),
    NET_MINUTE.name: AlertTemplate(
        "coordination_net",
        "coordination-1",
        "Many shoppers from one network",
        _TAGS,
        Nature.ATTACK,
        "share > 1.5 x its 7-day p95, 8 sigma in a minute or 6 in ten",
    ),
}
_WALK: Final = AlertTemplate(
    "coordination_walk",
    "coordination-1",
    "Many shoppers on one path through the products",
    _TAGS,
    Nature.ATTACK,
    "8 products with one successor each, 6 sigma above the pair's 7-day p95, in five minutes",
    900_000,
)


class _Minute(NamedTuple):
    end_ms: int
    events: float
    actors: float
    new_ids: float


class _Keys:
    """Shares of the keys of one kind: the heaviest ones, their history, and what goes on with them."""

    def __init__(self, window_ms: int) -> None:
        self._least_times = _WARM_UP_MS // window_ms
        self.heavy = SpaceSaving(_CAPACITY)
        self.history = ShareQuantiles()
        self.minutes: dict[str, list[_Minute]] = {}
        self.spells: dict[str, tuple[OpenAlert, int]] = {}  # key → what goes on, when it was last above
        self._day = 0

    @property
    def warm(self) -> bool:
        return self.history.times >= self._least_times

    def percentile(self, key: str) -> float:
        return self.history.quantile(key, _QUANTILE)

    def count(self, end_ms: int, weights: Mapping[str, float]) -> None:
        """Count keys; one that is no longer among the heaviest loses its history."""
        if end_ms // DAY_MS != self._day:
            self._day = end_ms // DAY_MS
            self.heavy.fade(0.5)
        for key, weight in weights.items():
            gone = self.heavy.offer(key, weight)
            if gone is not None:
                self.history.drop(gone)
                self.minutes.pop(gone, None)

    def learn(self, end_ms: int, shares: Mapping[str, float]) -> None:
        """Take a time, unless something goes on that is not a day old; what is suspicious is not learned either."""
        if any(end_ms - (spell.since_ms or end_ms) <= _ADOPT_MS for spell, _ in self.spells.values()):
            return
        normal = {
            key: share
            for key, share in shares.items()
            if key in self.heavy and (not self.warm or key in self.spells or share <= _limit(self.percentile(key)))
        }
        self.history.learn(end_ms, normal)

    def settle(self, end_ms: int) -> None:
        """Drop what is over."""
        self.spells = {key: value for key, value in self.spells.items() if end_ms - value[1] < _QUIET_MS}
        since_ms = end_ms - _SLOW_MS
        kept = {key: [minute for minute in past if minute.end_ms > since_ms] for key, past in self.minutes.items()}
        self.minutes = {key: past for key, past in kept.items() if past}

    def spell(self, key: str, end_ms: int) -> OpenAlert:
        """What goes on with a key, from now on if nothing did."""
        spell = self.spells[key][0] if key in self.spells else OpenAlert()
        self.spells[key] = spell, end_ms
        return spell

    def snapshot(self) -> dict[str, Any]:
        return {
            "heavy": self.heavy.snapshot(),
            "history": self.history.snapshot(),
            "minutes": [[key, *minute] for key, past in self.minutes.items() for minute in past],
            "spells": [[key, spell.snapshot(), last] for key, (spell, last) in self.spells.items()],
            "day": self._day,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.heavy.restore(state["heavy"])
        self.history.restore(state["history"])
        self.minutes = {}
        for key, *minute in state["minutes"]:
            self.minutes.setdefault(key, []).append(_Minute(*minute))
        self.spells = {key: (OpenAlert.of(spell), last) for key, spell, last in state["spells"]}
        self._day = state["day"]


class CoordinationDetector:
    """Client software, networks and walks that many ids share.

    Warm-up: two hours. Minimum volume: 60 events a window. State: at most 256 keys of each kind, about 60 bytes a day
    and key.
    """

    id: Final = "coordination"
    windows: Sequence[WindowDeclaration] = (SITE_60S, AGENT_MINUTE, NET_MINUTE, WALK_FIVE)
    other_signals: Sequence[str] = ()

    def __init__(self) -> None:
        self._keys = {window.name: _Keys(window.size_ms) for window in self.windows[1:]}
        self._totals: deque[tuple[int, float]] = deque(maxlen=_SLOW_MS // _MINUTE_MS)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin; something happens in those that end a minute."""
        found: dict[str, list[Signal]] = {}
        for signal in signals:
            found.setdefault(signal.window, []).append(signal)
        if SITE_60S.name not in found:
            return []
        self._totals.append((end_ms, _number(found[SITE_60S.name][0], "events")))
        detections = []
        for window, finding in _SOURCES.items():
            detections += self._sources(end_ms, found.get(window, []), self._keys[window], finding)
        if end_ms % _WALK_MS == 0:
            detections += self._walks(end_ms, found.get(WALK_FIVE.name, []))
        return detections

    def _total(self, end_ms: int, length_ms: int) -> float:
        return sum(events for at_ms, events in self._totals if at_ms > end_ms - length_ms)

    def _sources(self, end_ms: int, signals: list[Signal], keys: _Keys, finding: AlertTemplate) -> list[Detection]:
        total = self._total(end_ms, _MINUTE_MS)
        if not signals and not keys.history.times:  # events carry no address, or no client software
            return []
        minutes = {}
        for signal in signals:
            key = str(next(iter(signal.key.values())))
            minutes[key] = _Minute(end_ms, *(_number(signal, name) for name in ("events", "actors", "new_ids")))
            keys.minutes.setdefault(key, []).append(minutes[key])
        detections = []
        if total >= _LEAST_EVENTS and keys.warm:
            column = next(iter(signals[0].key)) if signals else ""
            for key, minute in minutes.items():
                detections += self._judge(column, key, minute, keys, finding)
        shares = {key: minute.events / total for key, minute in minutes.items()} if total >= _LEAST_EVENTS else {}
        keys.count(end_ms, {key: minute.events for key, minute in minutes.items()})
        if total >= _LEAST_EVENTS:
            keys.learn(end_ms, shares)
        keys.settle(end_ms)
        return detections

    def _judge(self, column: str, key: str, minute: _Minute, keys: _Keys, finding: AlertTemplate) -> list[Detection]:
        percentile = keys.percentile(key)
        usual, limit = max(percentile, _FLOOR), _limit(percentile)
        past = keys.minutes[key]
        slow = _Minute(minute.end_ms, *(sum(part[place] for part in past) for place in (1, 2, 3)))
        for span_ms, seen, ids, least, score_needed in (
            (_MINUTE_MS, minute, minute.actors, _FAST_IDS, _FAST_SCORE),
            (_SLOW_MS, slow, slow.new_ids, _SLOW_NEW_IDS, _SLOW_SCORE),
        ):
            total = self._total(minute.end_ms, span_ms)
            expected = usual * total
            variance = expected + (_STALE * expected) ** 2 + 1
            score = (seen.events - expected) / math.sqrt(variance)
            if seen.events <= limit * total or ids < least or score < score_needed:
                continue
            span = keys.spell(key, minute.end_ms).span(minute.end_ms - span_ms, minute.end_ms)
            if span is None:
                return []
            genuine = min(1.0, percentile * total / seen.events)
            detection = finding.detection(
                Severity.MEDIUM,
                {column: key},
                span,
                {"events": seen.events, "share": seen.events / total, "usual_share": usual, "ids": ids},
                {
                    **interval(expected, variance),
                    "score": score,
                    "contributions": {"share": 1.0},
                    "excess_events": seen.events - expected,
                    "confidence": (1 - math.exp(-score / score_needed)) * (1 - genuine),
                    "genuine_share": genuine,
                    "composition": {
                        "share": [seen.events / total, usual],
                        "new_ids": [seen.new_ids / seen.events, None],
                    },
                },
            )
            return [replace(detection, verdict="bot") if genuine <= _VERDICT_SHARE else detection]
        return []

    def _walks(self, end_ms: int, signals: list[Signal]) -> list[Detection]:
        keys = self._keys[WALK_FIVE.name]
        total = self._total(end_ms, _WALK_MS)
        seen = {(str(s.key["previous_product_id"]), str(s.key["product_id"])): _number(s, "events") for s in signals}
        hot: dict[tuple[str, str], float] = {}
        due = 0.0
        for pair, events in seen.items():
            expected = max(keys.percentile(">".join(pair)), _WALK_FLOOR) * total
            score = (events - expected) / math.sqrt(expected + (_STALE * expected) ** 2 + 1)
            if score >= _WALK_SCORE:
                hot[pair] = events
                due += expected
        sources = {before for before, _ in hot}
        told = []
        if (
            keys.warm
            and total >= _LEAST_EVENTS
            and len(sources) >= _WALK_STEPS
            and len(hot) <= _WALK_BRANCHING * len(sources)
            and (span := keys.spell("", end_ms).span(end_ms - _WALK_MS, end_ms))
        ):
            told = [_walk(span, hot, due, total)]
        labels = {">".join(pair): events for pair, events in seen.items()}
        keys.count(end_ms, labels)
        if total >= _LEAST_EVENTS:
            keys.learn(end_ms, {key: events / total for key, events in labels.items()})
        keys.settle(end_ms)
        return told

    def snapshot(self) -> Mapping[str, object]:
        """Heaviest keys, their histories, the last minutes."""
        return {
            "version": _VERSION,
            "totals": [list(total) for total in self._totals],
            "keys": {name: keys.snapshot() for name, keys in self._keys.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError("the coordination detector's snapshot is of another version; it begins afresh")
        self._totals = deque(map(tuple, state["totals"]), maxlen=self._totals.maxlen)
        for name, keys in self._keys.items():
            keys.restore(state["keys"][name])


def _limit(percentile: float) -> float:
    return max(_FACTOR * percentile, percentile + _MORE)


def _walk(span: tuple[int, int], hot: Mapping[tuple[str, str], float], due: float, total: float) -> Detection:
    events = sum(hot.values())
    variance = due + (_STALE * due) ** 2 + 1
    score = (events - due) / math.sqrt(variance)
    return _WALK.detection(
        Severity.MEDIUM,
        {},
        span,
        {"events": events, "steps": len(hot), "share": events / total},
        {
            **interval(due, variance),
            "score": score,
            "contributions": {"steps": 1.0},
            "excess_events": events - due,
            "confidence": 1 - math.exp(-len(hot) / _WALK_STEPS),
            "genuine_share": min(1.0, due / events),
            "composition": {"share": [events / total, due / total]},
            "path": _path(hot),
        },
    )


def _path(hot: Mapping[tuple[str, str], float], most: int = 20) -> list[str]:
    """Products in the order in which they are walked, from the busiest pair on."""
    following: dict[str, str] = {}
    for (before, after), _ in sorted(hot.items(), key=lambda item: (-item[1], item[0])):
        following.setdefault(before, after)
    product = next(iter(following))
    path = [product]
    while len(path) < most and following.get(product, product) not in path:
        product = following[product]
        path.append(product)
    return path


def _number(signal: Signal, measure: str) -> float:
    value = signal.measures[measure]
    return float(value) if isinstance(value, int | float) else 0.0
