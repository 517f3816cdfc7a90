"""Detector 3: the same volume from different visitors: attacks spread over so many ids that none of them is busy.

Each minute, shares of the site's traffic are compared with their usual values: shoppers who view rarely seen products
(hardly any shopper does, every crawler does), first events of ids, shoppers per event, shoppers who fill a cart or buy.
CUSUMs of the standardised differences (binomial chance and the share's own error together) find a strong shift in
minutes and a weak one within half an hour.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shopstream.clock import MINUTE_MS
from shopstream.detection.baseline import Baselines, Share
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import SITE_60S, TAIL_60S, AlertTemplate, Detector, OpenAlert
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.engine.signals import Signal

_LEAST_USERS: Final = 40.0
_SLOWLY: Final = 0.15
_WARM_UP: Final = 60.0
"""Minutes for which a share must have been seen, without baselines."""
_MOST: Final = 5.0
"""One value counts at most so many standard deviations: a single odd minute is no incident."""
_HELD: Final = 1.3
"""A sum stops this far above its height, so that it falls soon after the cause is over."""

# name: (sign of an attack, weight in the sum of all, memory in minutes, relative error of the share)
_SHARES: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "tail": (1.0, 1.0, 240.0, 0.05),
    "new_users": (1.0, 0.5, 45.0, 0.05),
    "users": (1.0, 0.4, 120.0, 0.006),
    "buyers": (-1.0, 0.25, 60.0, 0.20),
}
# name: (share, drift, height) of a CUSUM
_TESTS: Final[Mapping[str, tuple[str, float, float]]] = {
    "tail_fast": ("tail", 1.0, 8.0),
    "tail_slow": ("tail", 0.5, 14.0),
    "all_fast": ("all", 1.0, 8.0),
    "all_slow": ("all", 0.75, 13.0),
    "new_users": ("new_users", 1.3, 8.0),
}
_TEMPLATE: Final = AlertTemplate(
    "composition",
    "composition-1",
    "Possible botnet: many ids that do not behave like shoppers",
    ("owasp.oat-011", "owasp.oat-015", "attack.t1595"),
    Nature.ATTACK,
    "lasting shift in the shares of rarely viewed products, new ids, users and buyers (CUSUM)",
    1_800_000,
)


@dataclass(slots=True)
class _Cusum:
    """A one-sided CUSUM over standardised values.

    Args:
        drift: what is subtracted from each value.
        height: the sum at which it reports.
        total: the sum.
    """

    drift: float
    height: float
    total: float = 0.0

    def add(self, score: float) -> bool:
        """Add a value; returns whether the sum has reached its height."""
        self.total = min(max(0.0, self.total + min(score, _MOST) - self.drift), _HELD * self.height)
        return self.total >= self.height


class _ShareTest:
    """One share: its usual value at this hour, and the last minute's distance from it."""

    def __init__(self, name: str, share: Share | None) -> None:
        self.sign, self.weight, self._memory, self.error = _SHARES[name]
        self._share = share
        if share is not None:
            self.error = max(self.error, share.error)
        self.factor = 1.0 if share is not None else 0.0
        self.seen = 0.0
        self.observed = self.usual = self.score = 0.0

    @property
    def warm(self) -> bool:
        return self._share is not None or self.seen >= _WARM_UP

    def _base(self, end_ms: int) -> float:
        return self._share.at(end_ms - MINUTE_MS // 2) if self._share else 1.0

    def test(self, end_ms: int, hits: float, of: float) -> float:
        self.observed, self.usual = hits / of, min(max(self._base(end_ms) * self.factor, 1e-4), 0.999)
        if not self.warm:
            return 0.0
        chance = self.usual * (1 - self.usual) / of
        error = self.error * self.usual
        self.score = self.sign * (self.observed - self.usual) / math.sqrt(chance + error * error)
        return self.score

    def learn(self, end_ms: int, hits: float, of: float, pace: float) -> None:
        ratio = hits / of / max(self._base(end_ms), 1e-4)
        self.seen += 1
        step = max(1 / self.seen, 1 / self._memory) if self._share is None else 1 / self._memory
        # A minute with few shoppers says little about a small share.
        step *= min(1.0, of * self.usual * (1 - self.usual) / 10 + 0.1)
        self.factor += (ratio - self.factor) * step * pace


class CompositionDetector(Detector):
    """Shifts in who makes up the site's traffic.

    Warm-up: none with baselines, an hour without (for the share of new ids a day, until ids are known). Minimum volume:
    40 shoppers a minute. The share of rarely seen products (the tail) needs baselines, which list them.

    Args:
        site: the site's state.
        baselines: what is normal; None learns it.
    """

    id = "composition"
    windows = (SITE_60S,)
    other_signals = (TAIL_60S,)

    def __init__(self, site: SiteState, baselines: Baselines | None = None) -> None:
        shares = baselines.shares if baselines else {}
        self._site = site
        self._shares = {name: _ShareTest(name, shares.get(f"{name}_60s")) for name in _SHARES}
        self._tests = {name: _Cusum(drift, height) for name, (_, drift, height) in _TESTS.items()}
        self._alert = OpenAlert()
        self._since_ms: int | None = None

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`; a minute's shares come at its end."""
        if end_ms % MINUTE_MS:
            return []
        counts: dict[str, float] = {}
        for signal in signals:
            counts |= numbers(signal)
        users = counts.get("users", 0.0)
        if users < _LEAST_USERS or self._site.silent or self._site.recovering(end_ms):
            return []
        shares = {"users": (users, counts["events"]), "buyers": (counts["buyers"], users)}
        if self._site.knows_ids(end_ms):
            shares["new_users"] = counts["new_users"], counts["events"]
        if "tail_users" in counts:
            # In an unsettled hour, a sale of one category may cause the views: leave the busiest category out.
            kind = "tail" if self._site.settled(end_ms) else "spread"
            shares["tail"] = (min(counts[f"{kind}_users"], counts[f"{kind}_products"], users), users)
        return self._test(end_ms, shares)

    def _test(self, end_ms: int, shares: Mapping[str, tuple[float, float]]) -> list[Detection]:
        settled = self._site.settled(end_ms)
        scores: dict[str, float] = {}
        for name, (hits, of) in shares.items():
            score = self._shares[name].test(end_ms, hits, of)
            # The first minutes of a surge bring many first events and no carts yet; the tail does not change.
            if settled or name == "tail":
                scores[name] = score
        weights = {name: self._shares[name].weight for name in scores if self._shares[name].warm}
        norm = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        scores["all"] = sum(weights[name] * scores[name] for name in weights) / norm
        hit = False
        for name, (share, _, _) in _TESTS.items():
            if share in scores:
                hit |= self._tests[name].add(scores[share])
        suspicion = max(test.total / test.height for test in self._tests.values())
        if suspicion < 0.2:  # noqa: PLR2004  no evidence gathers
            self._since_ms = None
        elif self._since_ms is None:
            self._since_ms = end_ms - MINUTE_MS
        if settled:
            # Learn slowly while an incident may be going on; but what lasts for days is normal.
            pace = 1.0 if suspicion < 0.6 else _SLOWLY  # noqa: PLR2004
            for name, (hits, of) in shares.items():
                self._shares[name].learn(end_ms, hits, of, pace)
        if not hit:
            self._alert.close()
            return []
        window = self._alert.window(self._since_ms or end_ms - MINUTE_MS, end_ms)
        return [] if window is None else [self._detection(window, shares, weights, suspicion)]

    def _detection(
        self,
        window: tuple[int, int],
        shares: Mapping[str, tuple[float, float]],
        weights: Mapping[str, float],
        suspicion: float,
    ) -> Detection:
        tests = {name: self._shares[name] for name in shares}
        positive = {name: max(0.0, tests[name].score * weight) for name, weight in weights.items()}
        whole = sum(positive.values()) or 1.0
        tail = tests.get("tail")
        users = shares["users"][0]
        extra = 0.0
        if tail is not None:  # an attacker's share of tail products is near the tail's share of the catalogue
            extra = max(0.0, (tail.observed - tail.usual) / max(0.9 - tail.usual, 0.1)) * users
        evidence = {
            "expected": tail.usual if tail else tests["users"].usual,
            "score": max(test.score for test in tests.values()),
            "contributions": {name: value / whole for name, value in positive.items()},
            "composition": {name: [test.observed, test.usual] for name, test in tests.items()},
            "excess_events": extra,
            "genuine_share": 1 - min(0.95, extra / max(users, 1.0)),
            "confidence": 1 - math.exp(-2 * suspicion),
            **self._site.baseline_evidence(window[1]),
        }
        measures = {f"{name}_share": test.observed for name, test in tests.items()}
        return _TEMPLATE.detection(Severity.HIGH, {}, window, measures, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """Shares and sums."""
        return {
            "shares": {name: [share.factor, share.seen] for name, share in self._shares.items()},
            "tests": {name: test.total for name, test in self._tests.items()},
            "alert": self._alert.snapshot(),
            "since_ms": self._since_ms,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        for name, (factor, seen) in state["shares"].items():
            self._shares[name].factor, self._shares[name].seen = factor, seen
        for name, total in state["tests"].items():
            self._tests[name].total = total
        self._alert = OpenAlert.of(state["alert"])
        self._since_ms = state["since_ms"]
