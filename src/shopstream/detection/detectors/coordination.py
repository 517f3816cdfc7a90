"""Detector 9: many ids, one source.

A botnet changes its ids, but not its client software, its networks, or the order in which it visits products.

*Clients and networks* (`agent_hash`, `ip_net`; only where events carry them): the share of the minute's events that
comes from one of them, against the 95th percentile of that share in the last seven days. Fast test: one minute, at
least 8 ids and 8 standard deviations. Slow test: ten minutes together, at least 12 ids never seen before and 6 standard
deviations. A busier shop has the same shares.

*Paths* (pairs of a shopper's successive products): in five minutes, at least 8 products from each of which several
shoppers went on to the same next one, 6 standard deviations above the pair's usual share. A sale has many pairs among
few products; a list of addresses that is worked off has one successor for each product.

`SpaceSaving` finds the most frequent keys, and `ShareQuantiles` keeps the shares that they had, both in bounded memory.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from shopstream.clock import DAY_MS, MINUTE_MS
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import SITE_60S, AlertTemplate, Detector, OpenAlert, interval, tumbling
from shopstream.detection.detectors.site_state import numbers
from shopstream.engine.signals import Signal
from shopstream.errors import StateError


class SpaceSaving:
    """Counts at most `capacity` keys; a new key takes the place, and the count, of the lightest.

    For every key, kept or not: true weight <= `estimate(key)` <= true weight + `total` / `capacity`. So a key with more
    than that share of the total is always kept. Of equally light keys, the first in order goes: deterministic.

    Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams", ICDT 2005;
    with weights as in Anderson et al., IMC 2017.

    Args:
        capacity: keys kept, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.total = 0.0
        """Weight of all offered keys, faded like the counts."""
        self._counts: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        """Whether the key is kept."""
        return key in self._counts

    def __len__(self) -> int:
        """Number of kept keys."""
        return len(self._counts)

    def offer(self, key: str, weight: float = 1.0) -> str | None:
        """Count a key.

        Returns:
            The key that was evicted, if any.
        """
        self.total += weight
        if key in self._counts or len(self._counts) < self.capacity:
            self._counts[key] = self._counts.get(key, 0.0) + weight
            return None
        lightest = min(self._counts, key=lambda kept: (self._counts[kept], kept))
        self._counts[key] = self._counts.pop(lightest) + weight
        return lightest

    def estimate(self, key: str) -> float:
        """Upper bound of the key's weight."""
        if key in self._counts or len(self._counts) < self.capacity:
            return self._counts.get(key, 0.0)
        return min(self._counts.values())

    def fade(self, factor: float) -> None:
        """Reduce the weight of the past: multiply all counts. The bounds hold for faded weights."""
        self.total *= factor
        self._counts = {key: count * factor for key, count in self._counts.items()}

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"total": self.total, "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: it holds more keys than fit.
        """
        if len(state["counts"]) > self.capacity:
            raise StateError(f"expected at most {self.capacity} keys, got {len(state['counts'])}; drop the state")
        self.total = state["total"]
        self._counts = dict(state["counts"])


_DAYS: Final = 7
_PER_OCTAVE: Final = 4


class ShareQuantiles:
    """Shares of many keys, at most seven days back.

    Shares are counted in geometric steps (four per octave), so a quantile is up to 19 % too high, never too low. A time
    without a share of a key counts as zero.
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}  # day → times learned from
        self._steps: dict[str, dict[int, dict[int, int]]] = {}  # key → day → step → times

    @property
    def times(self) -> int:
        """Number of times learned from."""
        return sum(self._times.values())

    def learn(self, at_ms: int, shares: Mapping[str, float]) -> None:
        """Learn from a normal time: the share, above zero, of every key that occurred."""
        day = at_ms // DAY_MS
        if day not in self._times:
            self._forget(day - _DAYS)
        self._times[day] = self._times.get(day, 0) + 1
        for key, share in shares.items():
            steps = self._steps.setdefault(key, {}).setdefault(day, {})
            step = math.ceil(_PER_OCTAVE * math.log2(share))
            steps[step] = steps.get(step, 0) + 1

    def _forget(self, day: int) -> None:
        self._times = {kept: count for kept, count in self._times.items() if kept > day}
        for key in list(self._steps):
            days = {kept: steps for kept, steps in self._steps[key].items() if kept > day}
            if days:
                self._steps[key] = days
            else:
                del self._steps[key]

    def quantile(self, key: str, part: float) -> float:
        """The share that the key exceeded in at most `1 - part` of the times."""
        above = self.times * (1 - part)
        counts: dict[int, int] = {}
        for steps in self._steps.get(key, {}).values():
            for step, count in steps.items():
                counts[step] = counts.get(step, 0) + count
        seen = 0
        for step in sorted(counts, reverse=True):
            seen += counts[step]
            if seen > above:
                return min(1.0, math.exp2(step / _PER_OCTAVE))
        return 0.0

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._steps.pop(key, None)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._steps)

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "times": sorted(self._times.items()),
            "keys": [
                [key, [[day, sorted(steps.items())] for day, steps in sorted(days.items())]]
                for key, days in self._steps.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot."""
        self._times = dict(map(tuple, state["times"]))
        self._steps = {key: {day: dict(map(tuple, steps)) for day, steps in days} for key, days in state["keys"]}


_PATH_MS: Final = 300_000
_CAPACITY: Final = 256
"""Keys of each kind whose history is kept: every key with more than 1/256 of the events."""
_QUANTILE: Final = 0.95
_WARM_UP_MS: Final = 2 * 3_600_000
_LEAST_EVENTS: Final = 60.0
"""Events of the site in a window that is tested."""
_FACTOR, _MORE = 1.5, 0.01
"""The share must exceed the percentile by this factor, and by this difference."""
_FLOOR: Final = 0.002
"""Expected share of a key that was never seen."""
_STALE: Final = 0.05
"""Relative error of the percentile."""
_FAST_IDS, _FAST_SCORE = 8, 8.0
_SLOW_MS, _SLOW_NEW_IDS, _SLOW_SCORE = 600_000, 12, 6.0
_PATH_STEPS, _PATH_SCORE, _PATH_FLOOR, _PATH_BRANCHING = 8, 6.0, 0.0003, 1.5
_QUIET_MS: Final = 300_000
_ADOPT_MS: Final = DAY_MS
"""What lasts a day is normal by now, and is learned."""
_VERDICT_SHARE: Final = 0.1
"""A client or network gets the verdict bot only if at most this share of its events is estimated to be genuine."""
_TAGS: Final = ("owasp.oat-011", "owasp.oat-015", "attack.t1498", "attack.t1583.005")
_THRESHOLD: Final = "1.5 times the usual share (95 % of 7 days), by 8 standard deviations in a minute or 6 in ten"


_COUNTS: Final = {"events": "count(*)", "actors": "count(distinct user_id)"}
_SOURCE_COUNTS: Final = {**_COUNTS, "new_ids": "count(*) filter (where new_user)"}
AGENT_60S: Final = tumbling("detect_agent_60s", MINUTE_MS, _SOURCE_COUNTS, key=("agent_hash",), condition="events >= 5")
NET_60S: Final = tumbling("detect_net_60s", MINUTE_MS, _SOURCE_COUNTS, key=("ip_net",), condition="events >= 5")
PATH_300S: Final = tumbling(
    "detect_path_300s",
    _PATH_MS,
    _COUNTS,
    key=("previous_product_id", "product_id"),
    filter_="previous_product_id <> product_id",
    condition="events >= 4 and actors >= 4",
)

_SOURCES: Final = {
    window.name: AlertTemplate(rule_id, "coordination-1", title, _TAGS, Nature.ATTACK, _THRESHOLD)
    for window, rule_id, title in (
        (AGENT_60S, "coordination_agent", "{ids} users share one client: {share} of traffic, usually {usual_share}"),
        (NET_60S, "coordination_net", "{ids} users come from one network: {share} of traffic, usually {usual_share}"),
    )
}
_PATH: Final = AlertTemplate(
    "coordination_path",
    "coordination-1",
    "Many users visit the same {steps} products in the same order",
    _TAGS,
    Nature.ATTACK,
    "8 products with one successor each in five minutes, 6 standard deviations above the usual share",
    900_000,
)


class _Minute(NamedTuple):
    end_ms: int
    events: float
    actors: float
    new_ids: float


class _Keys:
    """Shares of the keys of one kind: the busiest keys, their history and their alerts."""

    def __init__(self, window_ms: int) -> None:
        self._least_times = _WARM_UP_MS // window_ms
        self.busiest = SpaceSaving(_CAPACITY)
        self.history = ShareQuantiles()
        self.minutes: dict[str, list[_Minute]] = {}
        self.alerts: dict[str, tuple[OpenAlert, int]] = {}  # key → its alert, when the key was last above the limit
        self._day = 0

    @property
    def warm(self) -> bool:
        return self.history.times >= self._least_times

    def percentile(self, key: str) -> float:
        return self.history.quantile(key, _QUANTILE)

    def count(self, end_ms: int, weights: Mapping[str, float]) -> None:
        """Count keys; a key that is no longer among the busiest loses its history."""
        if end_ms // DAY_MS != self._day:
            self._day = end_ms // DAY_MS
            self.busiest.fade(0.5)
        for key, weight in weights.items():
            gone = self.busiest.offer(key, weight)
            if gone is not None:
                self.history.drop(gone)
                self.minutes.pop(gone, None)

    def learn(self, end_ms: int, shares: Mapping[str, float]) -> None:
        """Learn the shares of a time, but neither while an alert less than a day old is open, nor suspicious shares."""
        if any(end_ms - (alert.since_ms or end_ms) <= _ADOPT_MS for alert, _ in self.alerts.values()):
            return
        normal = {
            key: share
            for key, share in shares.items()
            if key in self.busiest and (not self.warm or key in self.alerts or share <= _limit(self.percentile(key)))
        }
        self.history.learn(end_ms, normal)

    def settle(self, end_ms: int) -> None:
        """Drop alerts that are over, and old minutes."""
        self.alerts = {key: value for key, value in self.alerts.items() if end_ms - value[1] < _QUIET_MS}
        since_ms = end_ms - _SLOW_MS
        kept = {key: [minute for minute in past if minute.end_ms > since_ms] for key, past in self.minutes.items()}
        self.minutes = {key: past for key, past in kept.items() if past}

    def alert(self, key: str, end_ms: int) -> OpenAlert:
        """The key's alert; a new one if there is none."""
        alert = self.alerts[key][0] if key in self.alerts else OpenAlert()
        self.alerts[key] = alert, end_ms
        return alert

    def snapshot(self) -> dict[str, Any]:
        return {
            "busiest": self.busiest.snapshot(),
            "history": self.history.snapshot(),
            "minutes": [[key, *minute] for key, past in self.minutes.items() for minute in past],
            "alerts": [[key, alert.snapshot(), last] for key, (alert, last) in self.alerts.items()],
            "day": self._day,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.busiest.restore(state["busiest"])
        self.history.restore(state["history"])
        self.minutes = {}
        for key, *minute in state["minutes"]:
            self.minutes.setdefault(key, []).append(_Minute(*minute))
        self.alerts = {key: (OpenAlert.of(alert), last) for key, alert, last in state["alerts"]}
        self._day = state["day"]


class CoordinationDetector(Detector):
    """Client software, networks and paths that many ids share.

    Warm-up: two hours. Minimum volume: 60 events a window. State: at most 256 keys of each kind, about 60 bytes a day
    and key.
    """

    id = "coordination"
    windows = (SITE_60S, AGENT_60S, NET_60S, PATH_300S)

    def __init__(self) -> None:
        self._keys = {window.name: _Keys(window.size_ms) for window in self.windows[1:]}
        self._totals: deque[tuple[int, float]] = deque(maxlen=_SLOW_MS // MINUTE_MS)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`; only bins that end a minute matter."""
        found: dict[str, list[Signal]] = {}
        for signal in signals:
            found.setdefault(signal.window, []).append(signal)
        if SITE_60S.name not in found:
            return []
        self._totals.append((end_ms, numbers(found[SITE_60S.name][0])["events"]))
        detections = []
        for window, template in _SOURCES.items():
            detections += self._sources(end_ms, found.get(window, []), self._keys[window], template)
        if end_ms % _PATH_MS == 0:
            detections += self._paths(end_ms, found.get(PATH_300S.name, []))
        return detections

    def _total(self, end_ms: int, length_ms: int) -> float:
        return sum(events for at_ms, events in self._totals if at_ms > end_ms - length_ms)

    def _sources(self, end_ms: int, signals: list[Signal], keys: _Keys, template: AlertTemplate) -> list[Detection]:
        total = self._total(end_ms, MINUTE_MS)
        if not signals and not keys.history.times:  # events carry no address, or no client software
            return []
        minutes = {}
        for signal in signals:
            key, values = str(next(iter(signal.key.values()))), numbers(signal)
            minutes[key] = _Minute(end_ms, values["events"], values["actors"], values["new_ids"])
            keys.minutes.setdefault(key, []).append(minutes[key])
        detections = []
        if total >= _LEAST_EVENTS and keys.warm:
            column = next(iter(signals[0].key)) if signals else ""
            for key, minute in minutes.items():
                detections += self._test(column, key, minute, keys, template)
        keys.count(end_ms, {key: minute.events for key, minute in minutes.items()})
        if total >= _LEAST_EVENTS:
            keys.learn(end_ms, {key: minute.events / total for key, minute in minutes.items()})
        keys.settle(end_ms)
        return detections

    def _test(self, column: str, key: str, minute: _Minute, keys: _Keys, template: AlertTemplate) -> list[Detection]:
        percentile = keys.percentile(key)
        usual, limit = max(percentile, _FLOOR), _limit(percentile)
        past = keys.minutes[key]
        slow = _Minute(minute.end_ms, *(sum(part[place] for part in past) for place in (1, 2, 3)))
        for length_ms, seen, ids, least, least_score in (
            (MINUTE_MS, minute, minute.actors, _FAST_IDS, _FAST_SCORE),
            (_SLOW_MS, slow, slow.new_ids, _SLOW_NEW_IDS, _SLOW_SCORE),
        ):
            total = self._total(minute.end_ms, length_ms)
            expected = usual * total
            variance = _variance(expected)
            score = (seen.events - expected) / math.sqrt(variance)
            if seen.events <= limit * total or ids < least or score < least_score:
                continue
            window = keys.alert(key, minute.end_ms).window(minute.end_ms - length_ms, minute.end_ms)
            if window is None:
                return []
            genuine = min(1.0, percentile * total / seen.events)
            detection = template.detection(
                Severity.MEDIUM,
                {column: key},
                window,
                {"events": seen.events, "share": seen.events / total, "usual_share": usual, "ids": ids},
                {
                    **interval(expected, variance),
                    "score": score,
                    "contributions": {"share": 1.0},
                    "excess_events": seen.events - expected,
                    "confidence": (1 - math.exp(-score / least_score)) * (1 - genuine),
                    "genuine_share": genuine,
                    "composition": {
                        "share": [seen.events / total, usual],
                        "new_ids": [seen.new_ids / seen.events, None],
                    },
                },
            )
            return [replace(detection, verdict="bot") if genuine <= _VERDICT_SHARE else detection]
        return []

    def _paths(self, end_ms: int, signals: list[Signal]) -> list[Detection]:
        keys = self._keys[PATH_300S.name]
        total = self._total(end_ms, _PATH_MS)
        seen = {(str(s.key["previous_product_id"]), str(s.key["product_id"])): numbers(s)["events"] for s in signals}
        hot: dict[tuple[str, str], float] = {}
        due = 0.0
        for pair, events in seen.items():
            expected = max(keys.percentile(">".join(pair)), _PATH_FLOOR) * total
            if (events - expected) / math.sqrt(_variance(expected)) >= _PATH_SCORE:
                hot[pair] = events
                due += expected
        sources = {before for before, _ in hot}
        detections = []
        if (
            keys.warm
            and total >= _LEAST_EVENTS
            and len(sources) >= _PATH_STEPS
            and len(hot) <= _PATH_BRANCHING * len(sources)
            and (window := keys.alert("", end_ms).window(end_ms - _PATH_MS, end_ms))
        ):
            detections = [_path_detection(window, hot, due, total)]
        labels = {">".join(pair): events for pair, events in seen.items()}
        keys.count(end_ms, labels)
        if total >= _LEAST_EVENTS:
            keys.learn(end_ms, {key: events / total for key, events in labels.items()})
        keys.settle(end_ms)
        return detections

    def snapshot(self) -> Mapping[str, object]:
        """The busiest keys, their histories, the last minutes."""
        return {
            "totals": [list(total) for total in self._totals],
            "keys": {name: keys.snapshot() for name, keys in self._keys.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._totals = deque(map(tuple, state["totals"]), maxlen=self._totals.maxlen)
        for name, keys in self._keys.items():
            keys.restore(state["keys"][name])


def _limit(percentile: float) -> float:
    return max(_FACTOR * percentile, percentile + _MORE)


def _variance(expected: float) -> float:
    return expected + (_STALE * expected) ** 2 + 1


def _path_detection(
    window: tuple[int, int], hot: Mapping[tuple[str, str], float], due: float, total: float
) -> Detection:
    events, variance = sum(hot.values()), _variance(due)
    return _PATH.detection(
        Severity.MEDIUM,
        {},
        window,
        {"events": events, "steps": len(hot), "share": events / total},
        {
            **interval(due, variance),
            "score": (events - due) / math.sqrt(variance),
            "contributions": {"steps": 1.0},
            "excess_events": events - due,
            "confidence": 1 - math.exp(-len(hot) / _PATH_STEPS),
            "genuine_share": min(1.0, due / events),
            "composition": {"share": [events / total, due / total]},
            "path": _path(hot),
        },
    )


def _path(hot: Mapping[tuple[str, str], float], most: int = 20) -> list[str]:
    """Products in the order of visits, from the busiest pair on."""
    following: dict[str, str] = {}
    for (before, after), _ in sorted(hot.items(), key=lambda item: (-item[1], item[0])):
        following.setdefault(before, after)
    product = next(iter(following))
    path = [product]
    while len(path) < most and following.get(product, product) not in path:
        product = following[product]
        path.append(product)
    return path
