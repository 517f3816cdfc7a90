"""Classifies an excess of events as a surge (more of the usual shoppers) or an attack (different visitors).

More of the same raises all counts alike. Signs of an attack: views spread over rarely seen products, ids never seen
before, few ids behind many events, nobody adding to a cart. The counts of the excess are the observed ones minus those
that the expected events would have brought.

A surge of genuine visits begins with many first events, and its carts come minutes later. The tests of new ids and of
carts leave room for that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from shopstream.detection.baseline import Baselines
from shopstream.detection.detector import BIN_MS

SIGNS: Final = ("tail", "new_users", "users", "buys")
"""Events on rarely seen products (as breadth: the smaller of users and products), first events of ids, users of each
bin, carts and purchases; all as shares of the events."""

_MEMORY_MS: Final = 2 * 3_600_000
_SEED_EVENTS: Final = 20_000.0
_LEAST_EVENTS: Final = 2_000.0
_STALE: Final = 0.15
"""Relative error of a remembered share."""

_TAIL_SCORE, _TAIL_FACTOR, _TAIL_MORE = 5.0, 3.0, 0.1
_NEW_SHARE, _NEW_ROOM, _NEW_SCORE = 0.85, 0.65, 4.0
_USERS_SHARE, _USERS_ROOM, _USERS_SCORE = 0.88, 0.96, 4.0
_BUYS_FACTOR, _BUYS_ROOM, _BUYS_SCORE = 0.25, 0.85, 4.0
_NEED_HISTORY: Final = frozenset({"new_users", "buys"})
_BUYS_AFTER: Final = 18
"""Carts and purchases of an excess count from its fourth minute on: shoppers take a while."""


@dataclass(slots=True)
class TrafficMix:
    """Usual shares of the events of 10 s, remembered over some hours.

    Args:
        sums: name (of SIGNS, and `events`) → decayed sum; `tail` only with reference products.
        tail_events: decayed sum of the events for which `tail` was known.
    """

    sums: dict[str, float] = field(default_factory=dict)
    tail_events: float = 0.0

    @staticmethod
    def of(baselines: Baselines | None) -> "TrafficMix":
        """Seeded from history, if there is one."""
        mix = TrafficMix(dict.fromkeys(("events", *SIGNS), 0.0))
        shares = baselines.shares if baselines else {}
        if all(f"{name}_10s" in shares for name in SIGNS):
            hours = {name: shares[f"{name}_10s"].hours for name in SIGNS}
            mix.sums = {
                "events": _SEED_EVENTS,
                **{name: sum(values) / len(values) * _SEED_EVENTS for name, values in hours.items()},
            }
            mix.tail_events = _SEED_EVENTS
        return mix

    def share(self, name: str) -> float | None:
        """Share of the events; None where unknown."""
        events = self.tail_events if name == "tail" else self.sums["events"]
        return self.sums[name] / events if events >= _LEAST_EVENTS else None

    def learn(self, counts: Mapping[str, float]) -> None:
        """Learn from a normal bin; `tail` may be missing."""
        decay = math.exp(-BIN_MS / _MEMORY_MS)
        for name in self.sums:
            if name != "new_users" or name in counts:
                self.sums[name] = self.sums[name] * decay + counts.get(name, 0.0)
        self.tail_events = self.tail_events * decay + (counts["events"] if "tail" in counts else 0.0)


@dataclass(frozen=True, slots=True)
class Classification:
    """What an excess looks like.

    Args:
        attack: whether it has a sign that no surge has.
        contributions: sign → its share of all signs' scores.
        composition: name → [share of the excess, share of normal events].
    """

    attack: bool
    contributions: Mapping[str, float]
    composition: Mapping[str, list[float]]


@dataclass(slots=True)
class Excess:
    """Counts since the traffic looked suspicious.

    Args:
        bins: how many.
        expected: events expected in them.
        counts: observed.
        late: observed and `expected` counts of those bins in which carts should have come.
    """

    bins: int = 0
    expected: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)

    @property
    def events(self) -> float:
        """Events beyond the expected ones."""
        return self.counts.get("events", 0.0) - self.expected

    def add(self, counts: Mapping[str, float], expected: float) -> None:
        """Add a bin."""
        self.bins += 1
        self.expected += expected
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0.0) + value
        if self.bins > _BUYS_AFTER:
            late = {"events": counts["events"], "buys": counts.get("buys", 0.0), "expected": expected}
            for name, value in late.items():
                self.late[name] = self.late.get(name, 0.0) + value

    def classify(self, mix: TrafficMix, *, recovering: bool = False) -> Classification:
        """Surge or attack.

        Args:
            mix: usual shares.
            recovering: whether a silence ended recently. Earlier events of shoppers are then missing, so new ids and
                missing carts prove nothing.
        """
        extra = max(self.events, 1.0)
        scores: dict[str, float] = {}
        composition: dict[str, list[float]] = {}
        for name in SIGNS:
            share = mix.share(name)
            if share is None or name not in self.counts:
                continue
            more = self.counts[name] - share * self.expected
            composition[name] = [more / extra, share]
            score = self._score(name, share, more)
            if score and not (recovering and name in _NEED_HISTORY):
                scores[name] = score
        whole = sum(scores.values())
        return Classification(bool(scores), {name: value / whole for name, value in scores.items()}, composition)

    def _score(self, name: str, share: float, more: float) -> float:
        """How far a sign is from that of any surge, in standard deviations; 0 where that is unclear."""
        total, extra = self.counts["events"], max(self.events, 1.0)
        if name == "tail":
            due = share * total
            score = (self.counts[name] - due) / math.sqrt(due + (_STALE * due) ** 2 + 1)
            clear = score > _TAIL_SCORE and more / extra > max(_TAIL_FACTOR * share, share + _TAIL_MORE)
        elif name == "new_users":
            score = (more - _NEW_ROOM * extra) / math.sqrt(extra / 4 + (_STALE * extra / 3) ** 2 + 1)
            clear = score > _NEW_SCORE and more / extra > _NEW_SHARE
        elif name == "users":
            score = (_USERS_ROOM * extra - more) / math.sqrt(extra / 8 + (_STALE * extra / 5) ** 2 + 1)
            clear = score > _USERS_SCORE and more / extra < _USERS_SHARE
        else:
            score = self._no_buys(share) if self.late else 0.0
            clear = score > _BUYS_SCORE
        return score if clear else 0.0

    def _no_buys(self, share: float) -> float:
        extra = self.late["events"] - self.late["expected"]
        usual = share * self.late["expected"]
        more = self.late["buys"] - usual
        if extra <= 0 or more > _BUYS_FACTOR * share * extra:
            return 0.0
        return (_BUYS_ROOM * share * extra - more) / math.sqrt(share * self.late["events"] + (_STALE * usual) ** 2 + 1)
