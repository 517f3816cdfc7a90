"""Incidents in one SQLite file: the embedded adapter of `IncidentStore`."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from shopstream.clock import Clock
from shopstream.detection.detection import Detection
from shopstream.incidents.database import Connection, explained, open_writer, transaction
from shopstream.incidents.episode import SEVERITIES, Episode, gather, join, scope_of, settle
from shopstream.incidents.grouping import GroupingRules
from shopstream.incidents.incident import Change, Handling, Incident, IncidentChange
from shopstream.incidents.retention import forget_old
from shopstream.incidents.rows import UPSERT, Stored, stored_of, values_of
from shopstream.incidents.settings import AlertingSettings
from shopstream.incidents.tracker import Heads
from shopstream.incidents.triage import handle
from shopstream.notify.policy import NotificationPolicy

__all__ = ["EmbeddedIncidentStore"]

_MS = timedelta(milliseconds=1)
_Noted = tuple[Change, Stored, str | None]
"""What happened to which episode, and what took it in."""
_PURGES = 100
"""Retention is looked after this many times in its own length."""


class EmbeddedIncidentStore:
    """See `ports.IncidentStore`. One object belongs to one thread; other processes may read and acknowledge meanwhile.

    Args:
        path: the SQLite file; made where it is missing.
        settings: retention, and which incidents people are told of.
        clock: for the moments of notifications and of what people do.
        targets: names of the channels that notifications are queued for.
        connect: opens the file.
    """

    def __init__(
        self,
        path: Path,
        settings: AlertingSettings,
        clock: Clock,
        targets: Sequence[str] = (),
        *,
        connect: Callable[[Path], Connection] = open_writer,
    ) -> None:
        self._path = path
        self._clock = clock
        self._connection = connect(path)
        self._retention = settings.retention
        self._rules = GroupingRules(settings.campaign_actors, settings.campaign_within // _MS, settings.recovery // _MS)
        self._hold_ms = settings.notify_hold // _MS
        self._next_purge_ms: int | None = None
        self._telling = NotificationPolicy(self._connection, settings, clock, targets)
        self._heads: Heads | None = None
        with explained(path):
            self._next_close_ms = self._read_next_close()

    def apply(
        self, detections: Sequence[Detection], watermark_ms: int, clock_ms: int | None = None
    ) -> list[IncidentChange]:
        """See `ports.IncidentStore.apply`; without detections and with nothing to close it costs next to nothing."""
        if self._next_purge_ms is None:
            self._next_purge_ms = watermark_ms
        closing_ms = max(watermark_ms, clock_ms or watermark_ms)
        quiet = not detections and closing_ms < self._next_close_ms and watermark_ms < self._next_purge_ms
        if quiet and self._heads is not None and not self._telling.due(watermark_ms):
            return []
        try:
            with transaction(self._connection, self._path):
                changes, next_close_ms = self._apply(detections, watermark_ms, closing_ms)
        except BaseException:
            self._heads = None  # what is remembered may be ahead of what is written
            raise
        self._next_close_ms = next_close_ms
        return changes

    def _apply(
        self, detections: Sequence[Detection], watermark_ms: int, closing_ms: int
    ) -> tuple[list[IncidentChange], int]:
        touched: set[str] = set()
        if self._heads is None:
            self._heads = Heads(self._connection, self._rules, self._hold_ms)
            touched.update(self._heads.untold())
        heads = self._heads
        changes: list[_Noted] = []
        told_to = [detection for detection in detections if detection.suppression is None]
        written = self._merge(told_to, watermark_ms, changes) if told_to else []
        absorbed = {stored.id: into for _, stored, into in changes if into is not None}
        if written:
            touched |= heads.update(written, absorbed)
        self._connection.executemany(UPSERT, [values_of(stored, heads.place(stored.id)) for stored in written])
        # A lower bound: what has been extended since closes later, which is found when the bound is reached.
        next_close_ms = min([self._next_close_ms, *(stored.episode.closes_ms for stored in written)])
        if closing_ms >= next_close_ms:
            touched |= self._close_over(watermark_ms, closing_ms, changes, heads)
            next_close_ms = self._read_next_close()
        self._telling.tell(heads.write(touched), heads, watermark_ms)
        if self._next_purge_ms is None or watermark_ms >= self._next_purge_ms:
            forget_old(self._connection, watermark_ms, self._retention)
            self._next_purge_ms = watermark_ms + self._retention // _MS // _PURGES
        self._connection.execute("INSERT OR REPLACE INTO marks VALUES ('watermark_ms', ?)", (watermark_ms,))
        done = [_change(*noted, heads) for noted in changes]
        heads.forget(watermark_ms)
        return done, next_close_ms

    def acknowledge(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.acknowledge`."""
        return self._handle(id_or_prefix, Handling.ACKNOWLEDGED, comment)

    def resolve(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.resolve`."""
        return self._handle(id_or_prefix, Handling.RESOLVED, comment)

    def mark_false_positive(self, id_or_prefix: str, comment: str) -> Incident:
        """See `ports.IncidentStore.mark_false_positive`."""
        return self._handle(id_or_prefix, Handling.FALSE_POSITIVE, comment)

    def reopen(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.reopen`."""
        return self._handle(id_or_prefix, Handling.NONE, comment)

    def describe(self, incident_id: str, context: Mapping[str, object]) -> None:
        """See `ports.IncidentStore.describe`."""
        scope, _, ordinal = incident_id.partition("-")
        with transaction(self._connection, self._path):
            self._connection.execute(
                "UPDATE incidents SET context = ? WHERE scope = ? AND ordinal = ?",
                (json.dumps(context), scope, int(ordinal)),
            )

    def reload(self) -> None:
        """Forget what is remembered of the file, because somebody else has written episodes to it."""
        self._heads = None
        with explained(self._path):
            self._next_close_ms = self._read_next_close()

    def close(self) -> None:
        """See `ports.IncidentStore.close`."""
        self._connection.close()

    def _read_next_close(self) -> int:
        row = self._connection.execute("SELECT min(closes_ms) FROM incidents WHERE closed = 0").fetchone()
        return 1 << 62 if row[0] is None else int(row[0])

    def _merge(self, detections: Sequence[Detection], watermark_ms: int, changes: list[_Noted]) -> list[Stored]:
        scopes: dict[str, list[Detection]] = defaultdict(list)
        for detection in detections:
            scopes[scope_of(detection.rule_id, tuple(detection.key.items()))].append(detection)
        known = self._load(scopes, min(d.start_ms - d.suppress_for_ms for d in detections))
        last_ordinals = self._last_ordinals(scopes)
        written: list[Stored] = []
        for scope, found in scopes.items():
            ordinal = last_ordinals[scope]
            for stored, fresh in _components(known.get(scope, ()), gather(found)):
                if stored:
                    written += self._extend(stored, fresh, watermark_ms, changes)
                else:
                    ordinal += 1
                    written.append(_opened(found[0], scope, ordinal, fresh[0], watermark_ms))
                    changes.append((Change.OPENED, written[-1], None))
        return written

    def _load(self, scopes: Iterable[str], from_ms: int) -> dict[str, list[Stored]]:
        """The incidents that detections may touch; windows or their quiet time reach back to `from_ms`."""
        rows = self._connection.execute(
            "SELECT i.* FROM json_each(?) AS wanted JOIN incidents AS i ON i.scope = wanted.value AND i.closes_ms >= ?",
            (json.dumps(list(scopes)), from_ms),
        )
        known: dict[str, list[Stored]] = defaultdict(list)
        for row in rows:
            stored = stored_of(row)
            known[stored.scope].append(stored)
        return known

    def _last_ordinals(self, scopes: Iterable[str]) -> dict[str, int]:
        rows = self._connection.execute(
            "SELECT wanted.value, max(coalesce((SELECT max(ordinal) FROM incidents WHERE scope = wanted.value), 0), "
            "coalesce((SELECT ordinal FROM ordinals WHERE scope = wanted.value), 0)) FROM json_each(?) AS wanted",
            (json.dumps(list(scopes)),),
        )
        return {str(scope): int(ordinal) for scope, ordinal in rows}

    def _extend(
        self, stored: Sequence[Stored], fresh: Sequence[Episode], watermark_ms: int, changes: list[_Noted]
    ) -> list[Stored]:
        """Join what is new to the incident it belongs to; where it links several, the oldest takes in the others."""
        oldest, *others = sorted(stored, key=lambda one: one.ordinal) if len(stored) > 1 else stored
        episode = oldest.episode
        for other in (*(one.episode for one in others), *fresh):
            episode = join(episode, other)
        if episode == oldest.episode:
            return []
        raised = episode.severity > oldest.episode.severity
        episode = settle(episode, watermark_ms)
        result = oldest._replace(episode=episode, closed=oldest.closed and episode.closes_ms <= watermark_ms)
        if others:
            result = self._absorb(result, others)
            changes += [(Change.ABSORBED, other, result.id) for other in others]
        changes.append((Change.RAISED if raised else Change.UPDATED, result, None))
        return [result]

    def _absorb(self, into: Stored, others: Sequence[Stored]) -> Stored:
        """Take away the incidents that turned out to be part of another, and keep what people said about them."""
        for other in others:
            self._connection.execute(
                "DELETE FROM incidents WHERE scope = ? AND ordinal = ?", (other.scope, other.ordinal)
            )
            self._connection.execute(
                "DELETE FROM notifications WHERE incident_id = ? AND state = 'pending'", (other.id,)
            )
            self._connection.execute(
                "UPDATE notifications SET incident_id = ?1, reference = reference || ':absorbed:' || ?3 "
                "WHERE incident_id = ?2",
                (into.id, other.id, other.episode.start_ms),
            )
            if into.handling is Handling.NONE and other.handling is not Handling.NONE:
                into = into._replace(handling=other.handling, handled_ms=other.handled_ms, comment=other.comment)
                self._connection.execute(
                    "UPDATE incidents SET handling = ?, handled_ms = ?, comment = ? WHERE scope = ? AND ordinal = ?",
                    (into.handling, into.handled_ms, into.comment, into.scope, into.ordinal),
                )
        return into

    def _close_over(self, watermark_ms: int, closing_ms: int, changes: list[_Noted], heads: Heads) -> set[str]:
        rows = self._connection.execute(
            "SELECT * FROM incidents WHERE closed = 0 AND closes_ms <= ? ORDER BY closes_ms, scope", (closing_ms,)
        ).fetchall()
        over = [
            stored._replace(closed=True, episode=settle(stored.episode, watermark_ms))
            for stored in map(stored_of, rows)
        ]
        touched = heads.update(over, {})
        self._connection.executemany(UPSERT, [values_of(stored, heads.place(stored.id)) for stored in over])
        changes += [(Change.CLOSED, stored, None) for stored in over]
        return touched

    def _handle(self, id_or_prefix: str, handling: Handling, comment: str | None) -> Incident:
        with transaction(self._connection, self._path):
            return handle(self._connection, id_or_prefix, handling, comment, self._clock.now_ms())


def _components(stored: Sequence[Stored], fresh: Sequence[Episode]) -> list[tuple[list[Stored], list[Episode]]]:
    """Groups of linked episodes, in order of time, those left out that nothing new is linked to."""
    if not stored:
        return [([], [episode]) for episode in fresh]  # gathered: none is linked to another
    items: list[tuple[Episode, Stored | None]] = [(one.episode, one) for one in stored]
    items += [(episode, None) for episode in fresh]
    items.sort(key=lambda item: (item[0].start_ms, item[0].end_ms))
    groups: list[tuple[list[Stored], list[Episode]]] = []
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


def _opened(detection: Detection, scope: str, ordinal: int, episode: Episode, watermark_ms: int) -> Stored:
    return Stored(
        scope=scope,
        ordinal=ordinal,
        rule=detection.rule_id,
        key_kind=detection.key_kind,
        keys=detection.key,
        episode=settle(episode, watermark_ms),
    )


def _change(change: Change, stored: Stored, into: str | None, heads: Heads) -> IncidentChange:
    episode = stored.episode
    return IncidentChange(
        change=change,
        incident_id=stored.id,
        rule=stored.rule,
        severity=SEVERITIES[episode.severity],
        into=into,
        root=None if into else heads.place(stored.id).root,
        key=stored.keys,
        from_ms=episode.first_event_ms,
        to_ms=episode.last_event_ms,
        peak=episode.strength,
    )
