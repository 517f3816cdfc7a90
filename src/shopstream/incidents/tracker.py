"""Tracks open episodes and rolls them up into incidents: detections in, changed incidents out.

The tracker is pure: no clock, no file. Its state goes into the engine's checkpoint (`snapshot`, `restore`), so that the
same detections after a crash give the same incidents, ids included, as long as no detection is overtaken by one that
ends more than its rule's quiet time later.

Grouping (`grouping.group`) is a function of all episodes; only those that may yet be joined by another have to be
looked at. They are remembered as long as anything that they are chained to is open or was lately. A detection whose
events are no newer than those of a forgotten episode of the same rule and key comes again, and is ignored.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from shopstream.detection.detection import SEVERITIES, Detection
from shopstream.errors import StateError
from shopstream.incidents.episode import Episode, gather, join, scope_of, settle
from shopstream.incidents.grouping import GroupingRules, Member, group
from shopstream.incidents.incident import Change, IncidentChange
from shopstream.incidents.ports import LastOrdinal
from shopstream.incidents.record import (
    EpisodeRecord,
    IncidentRow,
    IncidentSummary,
    document_of,
    member_of,
    record_of,
)

NEVER_MS: Final = 1 << 62
_FORMAT: Final = 1
_LOOK_MS: Final = 60_000
"""How often (event time) the tracker looks for what it can forget."""

_CAMPAIGN_SEVERITY: Final = 3
"""A campaign is a class graver than its actors, up to this rank (high)."""

_NONE: Final = LastOrdinal()


class Written(NamedTuple):
    """What a store has to write; see `ports.IncidentUpdate`."""

    rows: list[IncidentRow]
    absorbed: dict[str, str]
    ordinals: dict[str, LastOrdinal]


class IncidentTracker:
    """One object belongs to one thread.

    Args:
        rules: what counts as one cause.
        hold_ms: how long a notification may wait; nothing is forgotten before.
    """

    def __init__(self, rules: GroupingRules, hold_ms: int = 0) -> None:
        self._rules = rules
        self._slack_ms = max(rules.campaign_within_ms, rules.recovery_ms, hold_ms)
        self._records: dict[str, EpisodeRecord] = {}
        self._members: dict[str, Member] = {}
        self._scopes: dict[str, set[str]] = {}
        self._forgotten: dict[str, LastOrdinal] = {}
        self._under: dict[str, set[str]] = {}
        self._newest_detected_ms = 0
        self._newest_close_ms = 0
        self._next_look_ms: int | None = None
        self._dirty: set[str] = set()
        self._touched: set[str] = set()
        self._absorbed: dict[str, str] = {}
        self.next_close_ms = NEVER_MS
        """A lower bound of the watermark that closes something."""

    @property
    def newest_close_ms(self) -> int:
        """The watermark that closes the newest incident so far."""
        return self._newest_close_ms

    @property
    def remembered(self) -> set[str]:
        """Ids of all episodes that are remembered."""
        return set(self._records)

    def unknown(self, detections: Iterable[Detection]) -> set[str]:
        """Scopes of which nothing is remembered: `apply` needs to know their newest incident."""
        return {_scope(detection) for detection in detections} - self._scopes.keys()

    def apply(
        self,
        detections: Sequence[Detection],
        watermark_ms: int,
        last: Mapping[str, LastOrdinal] | None = None,
        clock_ms: int | None = None,
    ) -> list[IncidentChange]:
        """Open, update, merge and close incidents.

        Args:
            detections: of any rules and keys, in any order, any number of times.
            watermark_ms: a promise: no final detection of a window that ends up to here comes after this call, save
                as a repetition.
            last: scope → its newest incident, of those that `unknown` named; those left out have none.
            clock_ms: event time up to which nothing came by the clock, no promise: incidents close by it, too, and one
                that more is found of after all is open again.
        """
        noted: list[tuple[Change, EpisodeRecord, str | None]] = []
        self._merge(detections, watermark_ms, last or {}, noted)
        closing_ms = max(watermark_ms, clock_ms or watermark_ms)
        if closing_ms >= self.next_close_ms:
            self._close_over(watermark_ms, closing_ms, noted)
        return [self._change(*note) for note in noted]

    def summaries(self) -> list[IncidentSummary]:
        """Incidents that have changed since the call before, in order of id."""
        touched, self._touched = self._touched, set()
        return [self._sum(root) for root in sorted(touched) if root in self._under]

    def summary(self, root: str) -> IncidentSummary | None:
        """What people see under an id; None where it is no head, or is forgotten."""
        return self._sum(root) if root in self._under else None

    def notified_chains(self) -> dict[str, set[str]]:
        """Chain → heads in it that people were notified of."""
        found: dict[str, set[str]] = defaultdict(set)
        for record in self._records.values():
            if record.notified_severity and record.place:
                found[record.place.chain].add(record.place.root)
        return found

    def set_notified(self, root: str, severity: int, *, sent: bool) -> None:
        """Note the rank of the severity that people need not be notified of again, and whether they are this time."""
        record = self._records[root]
        self._records[root] = record._replace(
            notified_severity=max(record.notified_severity, severity + 1), notifications=record.notifications + sent
        )
        self._dirty.add(root)

    def drain(self) -> Written:
        """What has changed since the call before."""
        dirty, self._dirty = self._dirty & self._records.keys(), set()
        absorbed, self._absorbed = self._absorbed, {}
        rows = [
            IncidentRow(self._records[one], self._sum(one) if one in self._under else None) for one in sorted(dirty)
        ]
        scopes = {row.record.scope for row in rows}
        return Written(rows, absorbed, {scope: self._last_of(scope) for scope in sorted(scopes)})

    def forget(self, watermark_ms: int) -> None:
        """Let go of what nothing can join any more; costs something once in a while only."""
        if self._next_look_ms is not None and watermark_ms < self._next_look_ms:
            return
        self._next_look_ms = watermark_ms + _LOOK_MS
        kept = {
            record.place.chain
            for record in self._records.values()
            if record.place and (not record.closed or record.episode.closes_ms + self._slack_ms > watermark_ms)
        }
        over = [record for record in self._records.values() if record.place and record.place.chain not in kept]
        for record in over:
            self._forgotten[record.scope] = _later(self._forgotten.get(record.scope, _NONE), record)
            self._drop(record)
            self._under.pop(record.root, None)
        for record in over:
            if record.scope not in self._scopes:
                self._forgotten.pop(record.scope, None)

    def rewrite(self, ids: Iterable[str]) -> set[str]:
        """Give these rows out again, as far as they are remembered; returns those that are not."""
        wanted = set(ids)
        self._dirty |= wanted & self._records.keys()
        return wanted - self._records.keys()

    def snapshot(self) -> dict[str, object]:
        """All that is remembered, JSON-ready; call it when `drain` has given everything out."""
        return {
            "format": _FORMAT,
            "episodes": [document_of(record) for record in self._records.values()],
            "forgotten": self._forgotten,
            "newest_close_ms": self._newest_close_ms,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a snapshot; for a tracker that has had no detections yet.

        Raises:
            StateError: it is no snapshot, or of another version.
        """
        if snapshot.get("format") != _FORMAT:
            raise StateError(
                f"expected incidents of format {_FORMAT} in the checkpoint, got {snapshot.get('format')}; finish the "
                "run with the shopstream that wrote it, or remove the checkpoints"
            )
        for document in snapshot["episodes"]:
            self._remember(record_of(document))
        self._forgotten = {scope: LastOrdinal(*last) for scope, last in snapshot["forgotten"].items()}
        self._newest_close_ms = snapshot["newest_close_ms"]
        for record in self._records.values():
            self._under.setdefault(record.root, set()).add(record.id)
        self._newest_detected_ms = max((member.detected_ms for member in self._members.values()), default=0)
        self.next_close_ms = self._read_next_close()
        self._touched = {root for root in self._under if not self._sum(root).notified_severity}

    def _merge(
        self,
        detections: Sequence[Detection],
        watermark_ms: int,
        last: Mapping[str, LastOrdinal],
        noted: list[tuple[Change, EpisodeRecord, str | None]],
    ) -> None:
        scopes: dict[str, list[Detection]] = defaultdict(list)
        for detection in detections:
            scopes[_scope(detection)].append(detection)
        written: list[EpisodeRecord] = []
        absorbed = False
        for scope, found in scopes.items():
            forgotten = self._forgotten.get(scope) or last.get(scope, _NONE)
            fresh = gather([d for d in found if d.last_event_ms > forgotten.last_event_ms])
            known = [self._records[one] for one in self._scopes.get(scope, ())]
            ordinal = max([forgotten.ordinal, *(record.ordinal for record in known)])
            for stored, new in _components(known, fresh):
                if stored:
                    extended = self._extend(stored, new, watermark_ms, noted)
                    written += extended
                    absorbed = absorbed or (bool(extended) and len(stored) > 1)
                else:
                    ordinal += 1
                    written.append(_opened(found[0], scope, ordinal, new[0], watermark_ms))
                    noted.append((Change.OPENED, written[-1], None))
                    self._forgotten[scope] = forgotten
        self._take(written, regroup=absorbed)

    def _take(self, written: Sequence[EpisodeRecord], *, regroup: bool = False) -> None:
        """Remember episodes that are new or have changed, and group again where that may move one."""
        for record in written:
            before = self._members.get(record.id)
            self._remember(record)
            regroup = regroup or before is None or self._moved(before, self._members[record.id])
            self._dirty.add(record.id)
            self.next_close_ms = min(self.next_close_ms, NEVER_MS if record.closed else record.episode.closes_ms)
            self._newest_close_ms = max(self._newest_close_ms, record.episode.closes_ms)
        if regroup:
            self._regroup()
        roots = {self._records[record.id].root for record in written}
        self._touched |= roots
        self._dirty |= roots

    def _remember(self, record: EpisodeRecord) -> None:
        self._records[record.id] = record
        self._members[record.id] = member_of(record)
        self._scopes.setdefault(record.scope, set()).add(record.id)

    def _drop(self, record: EpisodeRecord) -> None:
        del self._records[record.id]
        del self._members[record.id]
        ids = self._scopes[record.scope]
        ids.remove(record.id)
        if not ids:
            del self._scopes[record.scope]

    def _moved(self, before: Member, after: Member) -> bool:
        """Whether places may change: a longer time alone touches only what was detected after the old one's end."""
        same = before._replace(end_ms=after.end_ms, quiet_ms=after.quiet_ms) == after
        reach_ms = before.end_ms + min(before.quiet_ms, self._rules.recovery_ms)
        return not same or (before != after and self._newest_detected_ms > reach_ms)

    def _regroup(self) -> None:
        self._newest_detected_ms = max((member.detected_ms for member in self._members.values()), default=0)
        places = group(self._members.values(), self._rules)
        moved = {self._records[one].root for one, place in places.items() if self._records[one].place != place}
        for one, place in places.items():
            record = self._records[one]
            if record.place != place:
                moved.add(place.root)
                self._records[one] = record._replace(place=place)
                self._dirty.add(one)
        self._under = defaultdict(set)
        for one, place in places.items():
            self._under[place.root].add(one)
        self._touched |= moved
        self._dirty |= moved

    def _extend(
        self,
        stored: Sequence[EpisodeRecord],
        fresh: Sequence[Episode],
        watermark_ms: int,
        noted: list[tuple[Change, EpisodeRecord, str | None]],
    ) -> list[EpisodeRecord]:
        """Join what is new to the incident it belongs to; where it links several, the oldest takes in the others."""
        oldest, *others = sorted(stored, key=lambda one: one.ordinal)
        episode = oldest.episode
        for more in (*(one.episode for one in others), *fresh):
            episode = join(episode, more)
        if episode == oldest.episode:
            return []
        raised = episode.severity > oldest.episode.severity
        episode = settle(episode, watermark_ms)
        result = oldest._replace(
            episode=episode,
            closed=oldest.closed and episode.closes_ms <= watermark_ms,
            notified_severity=max(one.notified_severity for one in stored),
            notifications=sum(one.notifications for one in stored),
        )
        for other in others:
            self._drop(other)
            self._absorbed[other.id] = result.id
            self._touched.add(other.root)
            self._dirty.add(other.root)
            noted.append((Change.ABSORBED, other, result.id))
        noted.append((Change.RAISED if raised else Change.UPDATED, result, None))
        return [result]

    def _close_over(
        self, watermark_ms: int, closing_ms: int, noted: list[tuple[Change, EpisodeRecord, str | None]]
    ) -> None:
        over = sorted(
            (one for one in self._records.values() if not one.closed and one.episode.closes_ms <= closing_ms),
            key=lambda one: (one.episode.closes_ms, one.scope),
        )
        closed = [one._replace(closed=True, episode=settle(one.episode, watermark_ms)) for one in over]
        self._take(closed)
        noted += [(Change.CLOSED, one, None) for one in closed]
        self.next_close_ms = self._read_next_close()

    def _read_next_close(self) -> int:
        return min((one.episode.closes_ms for one in self._records.values() if not one.closed), default=NEVER_MS)

    def last_ordinal(self, scope: str) -> LastOrdinal | None:
        """The newest incident of a rule and key; None where nothing of them is remembered."""
        return self._last_of(scope) if scope in self._scopes else None

    def _last_of(self, scope: str) -> LastOrdinal:
        last = self._forgotten.get(scope, _NONE)
        for one in self._scopes.get(scope, ()):
            last = _later(last, self._records[one])
        return last

    def _sum(self, root: str) -> IncidentSummary:
        records = [self._records[one] for one in self._under[root]]
        first = self._records[root]
        place = first.place
        campaign = place is not None and place.campaign
        severity = max(one.episode.severity for one in records)
        if campaign:
            severity = max(severity, min(severity + 1, _CAMPAIGN_SEVERITY))
        confidences: dict[str, float] = {}
        tags = dict.fromkeys(first.episode.rule.tags)
        for one in records:
            confidences[one.rule] = max(confidences.get(one.rule, 0.0), one.episode.confidence)
        for more in sorted({one.episode.rule.tags for one in records}):
            tags.update(dict.fromkeys(more))
        return IncidentSummary(
            id=root,
            chain=place.chain if place else root,
            severity=severity,
            nature=min(one.episode.nature for one in records),
            first_event_ms=min(one.episode.first_event_ms for one in records),
            last_event_ms=max(one.episode.last_event_ms for one in records),
            detected_ms=min(one.episode.first_detected_ms for one in records),
            closed=all(one.closed for one in records),
            campaign=campaign,
            site=not first.keys,
            episodes=len(records),
            windows=sum(one.episode.windows for one in records),
            rules=(first.rule, *sorted(confidences.keys() - {first.rule})),
            contributions=dict(sorted(confidences.items())),
            tags=tuple(tags),
            notified_severity=max(one.notified_severity for one in records),
            notifications=sum(one.notifications for one in records),
        )

    def _change(self, change: Change, record: EpisodeRecord, into: str | None) -> IncidentChange:
        episode = record.episode
        return IncidentChange(
            change=change,
            incident_id=record.id,
            rule=record.rule,
            severity=SEVERITIES[episode.severity],
            into=into,
            root=None if into else self._records[record.id].root,
            key=record.keys,
            from_ms=episode.first_event_ms,
            to_ms=episode.last_event_ms,
            peak=episode.strength,
        )


def _scope(detection: Detection) -> str:
    return scope_of(detection.rule_id, tuple(detection.key.items()))


def _later(last: LastOrdinal, record: EpisodeRecord) -> LastOrdinal:
    return LastOrdinal(max(last.ordinal, record.ordinal), max(last.last_event_ms, record.episode.last_event_ms))


def _components(
    stored: Collection[EpisodeRecord], fresh: Sequence[Episode]
) -> list[tuple[list[EpisodeRecord], list[Episode]]]:
    """Groups of linked episodes, in order of time, those left out that nothing new is linked to."""
    if not stored:
        return [([], [episode]) for episode in fresh]  # gathered: none is linked to another
    items: list[tuple[Episode, EpisodeRecord | None]] = [(one.episode, one) for one in stored]
    items += [(episode, None) for episode in fresh]
    items.sort(key=lambda item: (item[0].start_ms, item[0].end_ms))
    groups: list[tuple[list[EpisodeRecord], list[Episode]]] = []
    end_ms = quiet_ms = 0
    for episode, one in items:
        if groups and episode.start_ms - end_ms <= max(quiet_ms, episode.suppress_ms):
            end_ms, quiet_ms = max(end_ms, episode.end_ms), max(quiet_ms, episode.suppress_ms)
        else:
            groups.append(([], []))
            end_ms, quiet_ms = episode.end_ms, episode.suppress_ms
        if one is None:
            groups[-1][1].append(episode)
        else:
            groups[-1][0].append(one)
    return [group for group in groups if group[1]]


def _opened(detection: Detection, scope: str, ordinal: int, episode: Episode, watermark_ms: int) -> EpisodeRecord:
    return EpisodeRecord(
        scope=scope,
        ordinal=ordinal,
        rule=detection.rule_id,
        key_kind=detection.key_kind,
        keys=detection.key,
        episode=settle(episode, watermark_ms),
    )
