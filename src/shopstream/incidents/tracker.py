"""Keeps what people see: which episodes are one incident, and the sums over them.

Grouping (`grouping.group`) is a function of all episodes; only those that may yet be joined by another have to be
looked at. They are remembered here, small, as long as anything that they are chained to is open or was lately; what is
older stays as it is written. So the result does not depend on batches, and memory does not grow with history.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from shopstream.incidents.grouping import GroupingRules, Member, Place, group
from shopstream.incidents.incident import Role
from shopstream.incidents.rows import Stored, member_of, stored_of

__all__ = ["Head", "Heads"]

_LOOK_MS: Final = 60_000
"""How often (event time) it is looked for what need not be remembered any more."""

_PLACE = "UPDATE incidents SET root = ?, role = ?, chain = ? WHERE scope = ? AND ordinal = ?"
_HEAD = "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CAMPAIGN_CLASS: Final = 3
"""Many actors are a class graver than one, up to this rank (high)."""


class _Known(NamedTuple):
    """What sums need to know of an episode beside its place."""

    member: Member
    severity: int
    first_event_ms: int
    last_event_ms: int
    closes_ms: int
    closed: bool
    windows: int
    verdict: str
    confidence: float
    tags: tuple[str, ...]
    told: int


class Head(NamedTuple):
    """One incident as people see it, to decide whether they are told.

    Args:
        id: of its head.
        severity: rank.
        told: 1 + the rank that people were told of; 0 as long as they were not.
        detected_ms: when the first of its episodes was detected.
        site: it is about the whole site.
    """

    id: str
    chain: str
    rule: str
    severity: int
    told: int
    detected_ms: int
    closed: bool
    campaign: bool
    site: bool


class Heads:
    """The places of all episodes that are remembered. One object belongs to one store; used inside its transactions.

    Args:
        connection: of the store.
        rules: what counts as one cause.
        hold_ms: how long people may have to wait until they are told; nothing is let go of before.
    """

    def __init__(self, connection: sqlite3.Connection, rules: GroupingRules, hold_ms: int = 0) -> None:
        self._connection = connection
        self._rules = rules
        self._slack_ms = max(rules.campaign_within_ms, rules.recovery_ms, hold_ms)
        self._known: dict[str, _Known] = {}
        self._places: dict[str, Place] = {}
        self._under: dict[str, set[str]] = {}
        self._newest_ms = 0
        self._next_look_ms: int | None = None
        mark = connection.execute("SELECT value FROM marks WHERE name = 'watermark_ms'").fetchone()
        self._load("closed = 0 OR closes_ms > ?", (mark[0] if mark else 0) - self._slack_ms)

    def _load(self, condition: str, *values: object) -> None:
        """Remember what meets a condition, and all that is chained to it."""
        rows = self._connection.execute(
            f"SELECT * FROM incidents WHERE chain IN (SELECT chain FROM incidents WHERE {condition})", values
        ).fetchall()
        campaigns = {
            f"{scope}-{ordinal}"
            for scope, ordinal in self._connection.execute("SELECT scope, ordinal FROM heads WHERE campaign = 1")
        }
        for row in rows:
            stored = stored_of(row)
            self._known[stored.id] = _known_of(stored, row["told"])
            place = stored.place
            if place is not None:
                self._places[stored.id] = place._replace(campaign=place.root in campaigns)
                self._under.setdefault(place.root, set()).add(stored.id)
        self._newest_ms = max((known.member.detected_ms for known in self._known.values()), default=0)

    def update(self, written: Sequence[Stored], absorbed: Mapping[str, str]) -> set[str]:
        """Take in episodes that are new or have changed, and forget those that others took in.

        Args:
            written: as they are now.
            absorbed: id → the id of what took it in.

        Returns:
            ids of the heads whose sums may have changed; some may be heads no more.
        """
        stale = bool(absorbed)
        told: dict[str, int] = defaultdict(int)
        for episode_id, into in absorbed.items():
            if one := self._known.pop(episode_id, None):
                told[into] = max(told[into], one.told)
        for stored in written:
            episode_id = stored.id
            before = self._known.get(episode_id)
            if before is None and stored.place is not None:  # settled long ago: the watermark's promise was broken
                self._load("chain = ?", stored.place.chain)
                before = self._known.get(episode_id)
            known = _known_of(stored, max(before.told if before else 0, told.get(episode_id, 0)))
            self._known[episode_id] = known
            stale = stale or before is None or self._moved(before.member, known.member)
        touched = {self._places[stored.id].root for stored in written if stored.id in self._places}
        return touched | self._regroup() if stale else touched

    def _moved(self, before: Member, after: Member) -> bool:
        """Whether places may change: a longer time alone touches only what was detected after the old one's end."""
        same = before._replace(end_ms=after.end_ms, quiet_ms=after.quiet_ms) == after
        reach_ms = before.end_ms + min(before.quiet_ms, self._rules.recovery_ms)
        return not same or (before != after and self._newest_ms > reach_ms)

    def _regroup(self) -> set[str]:
        members = [known.member for known in self._known.values()]
        self._newest_ms = max((member.detected_ms for member in members), default=0)
        before, self._places = self._places, group(members, self._rules)
        touched = set()
        moved = []
        for episode_id, place in self._places.items():
            old = before.pop(episode_id, None)
            if old == place:
                continue
            touched.add(place.root)
            if old is not None:
                touched.add(old.root)
                scope, _, ordinal = episode_id.partition("-")
                moved.append((place.root, place.role, place.chain, scope, int(ordinal)))
                if old.role is Role.HEAD is not place.role:
                    self._untell(episode_id)
        touched.update(place.root for place in before.values())
        self._connection.executemany(_PLACE, moved)
        self._under = defaultdict(set)
        for episode_id, place in self._places.items():
            self._under[place.root].add(episode_id)
        return touched

    def _untell(self, episode_id: str) -> None:
        """What is no incident of its own any more: nobody needs to hear of it who has not yet."""
        self._connection.execute("DELETE FROM notifications WHERE incident_id = ? AND state = 'pending'", (episode_id,))
        row = self._connection.execute(
            "SELECT coalesce(1 + max(severity), 0) FROM notifications WHERE incident_id = ?", (episode_id,)
        ).fetchone()
        self.tell(episode_id, int(row[0]))

    def place(self, episode_id: str) -> Place:
        """Where an episode stands."""
        return self._places[episode_id]

    def write(self, touched: Iterable[str]) -> list[Head]:
        """Write the sums of heads, remove those that are none any more; returns those that are, in order of id."""
        heads, rows, gone = [], [], []
        for root in sorted(touched):
            if root not in self._under:
                scope, _, ordinal = root.partition("-")
                gone.append((scope, int(ordinal)))
                continue
            head, row = self._sum(root)
            heads.append(head)
            rows.append(row)
        self._connection.executemany("DELETE FROM heads WHERE scope = ? AND ordinal = ?", gone)
        self._connection.executemany(_HEAD, rows)
        return heads

    def head(self, root: str) -> Head | None:
        """What people see under an id; None where it is no head, or is settled and forgotten."""
        return self._sum(root)[0] if root in self._under else None

    def _sum(self, root: str) -> tuple[Head, tuple[object, ...]]:
        known = [self._known[episode_id] for episode_id in self._under[root]]
        first = self._known[root]
        place = self._places[root]
        severity = max(one.severity for one in known)
        if place.campaign:
            severity = max(severity, min(severity + 1, _CAMPAIGN_CLASS))
        detected_ms = min(one.member.detected_ms for one in known)
        closed = all(one.closed for one in known)
        nature = min(one.member.nature for one in known)
        head = Head(
            id=root,
            chain=place.chain,
            rule=first.member.rule,
            severity=severity,
            told=max(one.told for one in known),
            detected_ms=detected_ms,
            closed=closed,
            campaign=place.campaign,
            site=not first.member.key,
        )
        confidences: dict[str, float] = {}
        tags = dict.fromkeys(first.tags)
        for one in known:
            rule = one.member.rule
            confidences[rule] = max(confidences.get(rule, 0.0), one.confidence)
        for more in sorted({one.tags for one in known}):
            tags.update(dict.fromkeys(more))
        facts = {
            "rules": [head.rule, *sorted(confidences.keys() - {head.rule})],
            "contributions": dict(sorted(confidences.items())),
            "tags": list(tags),
            "windows": sum(one.windows for one in known),
            "verdict": first.verdict,
        }
        scope, _, ordinal = root.partition("-")
        return head, (
            *(scope, int(ordinal), severity, nature),
            *(min(one.first_event_ms for one in known), max(one.last_event_ms for one in known), detected_ms),
            *(closed, place.campaign, len(known), json.dumps(facts)),
        )

    def told_chains(self) -> dict[str, set[str]]:
        """Chain → heads in it that people were told of."""
        told: dict[str, set[str]] = defaultdict(set)
        for episode_id, known in self._known.items():
            if known.told:
                place = self._places[episode_id]
                told[place.chain].add(place.root)
        return told

    def tell(self, root: str, told: int) -> None:
        """Note what people were told of."""
        self._known[root] = self._known[root]._replace(told=told)
        scope, _, ordinal = root.partition("-")
        self._connection.execute(
            "UPDATE incidents SET told = ? WHERE scope = ? AND ordinal = ?", (told, scope, int(ordinal))
        )

    def untold(self) -> list[str]:
        """Heads of which nobody was told yet."""
        return [root for root, under in self._under.items() if not any(self._known[one].told for one in under)]

    def forget(self, watermark_ms: int) -> None:
        """Let go of what nothing can join any more; costs something once in a while only."""
        if self._next_look_ms is not None and watermark_ms < self._next_look_ms:
            return
        self._next_look_ms = watermark_ms + _LOOK_MS
        kept = {
            self._places[episode_id].chain
            for episode_id, known in self._known.items()
            if not known.closed or known.closes_ms + self._slack_ms > watermark_ms
        }
        over = [episode_id for episode_id, place in self._places.items() if place.chain not in kept]
        for episode_id in over:
            del self._known[episode_id]
            self._under.pop(self._places.pop(episode_id).root, None)


def _known_of(stored: Stored, told: int) -> _Known:
    episode = stored.episode
    return _Known(
        member=member_of(stored),
        severity=episode.severity,
        first_event_ms=episode.first_event_ms,
        last_event_ms=episode.last_event_ms,
        closes_ms=episode.closes_ms,
        closed=stored.closed,
        windows=episode.windows,
        verdict=episode.verdict,
        confidence=episode.confidence,
        tags=episode.words.tags,
        told=told,
    )
