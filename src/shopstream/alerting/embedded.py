"""Incidents in one SQLite file: the embedded adapter of `IncidentStore`, and reading for other processes."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from shopstream.alerting.database import open_reader, open_writer, transaction
from shopstream.alerting.episode import SEVERITIES, Episode, gather, join, linked, scope_of, settle
from shopstream.alerting.incident import Change, Handling, Incident, IncidentChange, State, incident_id
from shopstream.alerting.rows import UPSERT, Stored, incident_of, stored_of, values_of
from shopstream.alerting.settings import AlertingSettings
from shopstream.clock import Clock
from shopstream.detection.detection import Detection, Severity
from shopstream.errors import StateError

__all__ = ["EmbeddedIncidentStore", "count_incidents", "read_incident", "read_incidents"]

_STATE_SQL = (
    "CASE WHEN handling = 'resolved' THEN 'resolved' WHEN closed THEN 'closed' "
    "WHEN handling = 'acknowledged' THEN 'acknowledged' ELSE 'open' END"
)
_PURGES = 100
"""Retention is looked after this many times in its own length."""


class EmbeddedIncidentStore:
    """See `ports.IncidentStore`. One object belongs to one thread; other processes may read and acknowledge meanwhile.

    Args:
        path: the SQLite file; made where it is missing.
        settings: retention, and which incidents people are told of.
        clock: for the moments of notifications and of what people do.
        targets: names of the channels that notifications are queued for.
    """

    def __init__(self, path: Path, settings: AlertingSettings, clock: Clock, targets: Sequence[str] = ()) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        self._targets = tuple(targets)
        self._connection = open_writer(path)
        self._retention_ms = settings.retention // timedelta(milliseconds=1)
        self._next_purge_ms: int | None = None
        self._next_close_ms = self._read_next_close()

    def apply(self, detections: Sequence[Detection], watermark_ms: int) -> list[IncidentChange]:
        """See `ports.IncidentStore.apply`; without detections and with nothing to close it costs next to nothing."""
        if self._next_purge_ms is None:
            self._next_purge_ms = watermark_ms
        if not detections and watermark_ms < min(self._next_close_ms, self._next_purge_ms):
            return []
        with transaction(self._connection, self._path):
            changes = self._merge(detections, watermark_ms) if detections else []
            changes += self._close_over(watermark_ms)
            self._notify(changes)
            if watermark_ms >= self._next_purge_ms:
                self._purge(watermark_ms)
                self._next_purge_ms = watermark_ms + self._retention_ms // _PURGES
        self._next_close_ms = self._read_next_close()
        return changes

    def acknowledge(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.acknowledge`."""
        return self._handle(id_or_prefix, Handling.ACKNOWLEDGED, comment)

    def resolve(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.resolve`."""
        return self._handle(id_or_prefix, Handling.RESOLVED, comment)

    def close(self) -> None:
        """See `ports.IncidentStore.close`."""
        self._connection.close()

    def _read_next_close(self) -> int:
        row = self._connection.execute("SELECT min(closes_ms) FROM incidents WHERE closed = 0").fetchone()
        return 1 << 62 if row[0] is None else int(row[0])

    def _merge(self, detections: Sequence[Detection], watermark_ms: int) -> list[IncidentChange]:
        scopes: dict[str, list[Detection]] = defaultdict(list)
        names: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
        for detection in detections:
            name = (detection.rule_id, tuple(detection.key.items()))
            scope = names.get(name)
            if scope is None:
                scope = names[name] = scope_of(detection)
            scopes[scope].append(detection)
        known = self._load(scopes, min(d.start_ms for d in detections))
        last_ordinals = self._last_ordinals(scopes)
        changes: list[IncidentChange] = []
        written: list[Stored] = []
        for scope, found in scopes.items():
            ordinal = last_ordinals[scope]
            for stored, fresh in _components(known.get(scope, []), gather(found)):
                if stored:
                    self._extend(stored, fresh, watermark_ms, written, changes)
                else:
                    ordinal += 1
                    written.append(_opened(found[0], scope, ordinal, fresh[0], watermark_ms))
                    changes.append(_change(Change.OPENED, written[-1]))
        self._connection.executemany(UPSERT, map(values_of, written))
        return changes

    def _load(self, scopes: Iterable[str], start_ms: int) -> dict[str, list[Stored]]:
        """The incidents that detections from `start_ms` on may touch."""
        rows = self._connection.execute(
            "SELECT i.* FROM json_each(?) AS wanted JOIN incidents AS i ON i.scope = wanted.value "
            "AND i.end_ms >= ? - i.suppress_ms",
            (json.dumps(list(scopes)), start_ms),
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
        self,
        stored: Sequence[Stored],
        fresh: Sequence[Episode],
        watermark_ms: int,
        written: list[Stored],
        changes: list[IncidentChange],
    ) -> None:
        """Join what is new to the incident it belongs to; where it links several, the oldest takes in the others."""
        oldest, *others = sorted(stored, key=lambda one: one.ordinal) if len(stored) > 1 else stored
        episode = oldest.episode
        for other in (*(one.episode for one in others), *fresh):
            episode = join(episode, other)
        if episode == oldest.episode:
            return
        raised = episode.severity > oldest.episode.severity
        episode = settle(episode, watermark_ms)
        result = replace(oldest, episode=episode, closed=oldest.closed and episode.closes_ms <= watermark_ms)
        if others:
            result = self._absorb(result, others)
            changes += [_change(Change.ABSORBED, other, into=result.id) for other in others]
        written.append(result)
        changes.append(_change(Change.RAISED if raised else Change.UPDATED, result))

    def _absorb(self, into: Stored, others: Sequence[Stored]) -> Stored:
        """Take away the incidents that turned out to be part of another, and keep what people said about them."""
        for other in others:
            self._connection.execute("DELETE FROM incidents WHERE id = ?", (other.id,))
            self._connection.execute(
                "DELETE FROM notifications WHERE incident_id = ? AND state = 'pending'", (other.id,)
            )
            self._connection.execute(
                "UPDATE notifications SET incident_id = ?1, reference = reference || ':absorbed:' || ?3 "
                "WHERE incident_id = ?2",
                (into.id, other.id, other.episode.start_ms),
            )
            if into.handling is Handling.NONE and other.handling is not Handling.NONE:
                into = replace(into, handling=other.handling, handled_ms=other.handled_ms, comment=other.comment)
                self._connection.execute(
                    "UPDATE incidents SET handling = ?, handled_ms = ?, comment = ? WHERE id = ?",
                    (into.handling, into.handled_ms, into.comment, into.id),
                )
        return into

    def _close_over(self, watermark_ms: int) -> list[IncidentChange]:
        rows = self._connection.execute(
            "SELECT * FROM incidents WHERE closed = 0 AND closes_ms <= ? ORDER BY closes_ms, id", (watermark_ms,)
        ).fetchall()
        over = [
            replace(stored, closed=True, episode=settle(stored.episode, watermark_ms))
            for stored in map(stored_of, rows)
        ]
        self._connection.executemany(UPSERT, [values_of(stored) for stored in over])
        return [_change(Change.CLOSED, stored) for stored in over]

    def _notify(self, changes: Sequence[IncidentChange]) -> None:
        if not self._targets:
            return
        told = {Change.OPENED, Change.RAISED} | ({Change.CLOSED} if self._settings.notify_closed else set())
        least = SEVERITIES.index(self._settings.notify_severity)
        now_ms = self._clock.now_ms()
        rows = [
            (_reference(change), target, change.incident_id, change.change, rank, now_ms, now_ms)
            for change in changes
            if change.change in told and (rank := SEVERITIES.index(change.severity)) >= least
            for target in self._targets
        ]
        # A repetition after a crash, or an incident that closes a second time, is told once.
        self._connection.executemany(
            "INSERT INTO notifications (reference, target, incident_id, kind, severity, due_ms, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            rows,
        )

    def _purge(self, watermark_ms: int) -> None:
        """Forget what is over for longer than the retention; ids are not given again for another two retentions."""
        old_ms = watermark_ms - self._retention_ms
        self._connection.execute(
            "INSERT INTO ordinals SELECT scope, max(ordinal), max(end_ms) FROM incidents "
            "WHERE closed = 1 AND last_event_ms < ?1 AND end_ms < ?1 GROUP BY scope "
            "ON CONFLICT (scope) DO UPDATE SET ordinal = max(ordinal, excluded.ordinal), end_ms = excluded.end_ms",
            (old_ms,),
        )
        self._connection.execute(
            "DELETE FROM notifications WHERE incident_id IN "
            "(SELECT id FROM incidents WHERE closed = 1 AND last_event_ms < ?1 AND end_ms < ?1)",
            (old_ms,),
        )
        self._connection.execute(
            "DELETE FROM incidents WHERE closed = 1 AND last_event_ms < ?1 AND end_ms < ?1", (old_ms,)
        )
        self._connection.execute("DELETE FROM ordinals WHERE end_ms < ?", (old_ms - 2 * self._retention_ms,))

    def _handle(self, id_or_prefix: str, handling: Handling, comment: str | None) -> Incident:
        with transaction(self._connection, self._path):
            stored = _find(self._connection, id_or_prefix)
            stored = replace(
                stored,
                handling=handling,
                handled_ms=self._clock.now_ms(),
                comment=stored.comment if comment is None else comment,
            )
            self._connection.execute(
                "UPDATE incidents SET handling = ?, handled_ms = ?, comment = ? WHERE id = ?",
                (stored.handling, stored.handled_ms, stored.comment, stored.id),
            )
        return incident_of(stored)


def _components(stored: Sequence[Stored], fresh: Sequence[Episode]) -> list[tuple[list[Stored], list[Episode]]]:
    """Groups of linked episodes, in order of time, those left out that nothing new is linked to."""
    if not stored:
        return [([], [episode]) for episode in fresh]  # gathered: none is linked to another
    items: list[tuple[Episode, Stored | None]] = [(one.episode, one) for one in stored]
    items += [(episode, None) for episode in fresh]
    items.sort(key=lambda item: (item[0].start_ms, item[0].end_ms))
    groups: list[tuple[list[Stored], list[Episode]]] = []
    hull: Episode | None = None
    for episode, one in items:
        if hull is None or not linked(hull, episode):
            groups.append(([], []))
            hull = episode
        else:
            hull = replace(
                hull,
                end_ms=max(hull.end_ms, episode.end_ms),
                suppress_ms=max(hull.suppress_ms, episode.suppress_ms),
            )
        if one is None:
            groups[-1][1].append(episode)
        else:
            groups[-1][0].append(one)
    return [group for group in groups if group[1]]


def _opened(detection: Detection, scope: str, ordinal: int, episode: Episode, watermark_ms: int) -> Stored:
    return Stored(
        id=incident_id(scope, ordinal),
        scope=scope,
        ordinal=ordinal,
        rule=detection.rule_id,
        key_kind=detection.key_kind,
        keys=detection.key,
        episode=settle(episode, watermark_ms),
    )


def _change(change: Change, stored: Stored, into: str | None = None) -> IncidentChange:
    return IncidentChange(change, stored.id, stored.rule, SEVERITIES[stored.episode.severity], into)


def _reference(change: IncidentChange) -> str:
    """What a receiver tells repetitions by; a severity is raised more than once, but to each height once."""
    raised = f":{change.severity}" if change.change is Change.RAISED else ""
    return f"{change.incident_id}:{change.change}{raised}"


def _find(connection: sqlite3.Connection, id_or_prefix: str) -> Stored:
    rows = connection.execute(
        "SELECT * FROM incidents WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2", (id_or_prefix,)
    ).fetchall()
    if not id_or_prefix or len(rows) != 1:
        found = "several" if rows else "none"
        raise StateError(
            f"expected the id of an incident, got {id_or_prefix!r}, it fits {found}; see `shopstream incidents list`"
        )
    return stored_of(rows[0])


def read_incidents(
    path: Path,
    *,
    states: Iterable[State] = (),
    severities: Iterable[Severity] = (),
    rules: Iterable[str] = (),
    limit: int | None = None,
) -> list[Incident]:
    """Incidents with the newest events first; none as long as there is no store. Safe while the engine writes.

    Args:
        path: the SQLite file.
        states: take only these; empty takes all.
        severities: likewise.
        rules: likewise.
        limit: at most so many; None takes all.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    connection = open_reader(path)
    if connection is None:
        return []
    wheres, values = ["TRUE"], list[object]()
    for column, wanted in (
        (_STATE_SQL, [str(state) for state in states]),
        ("severity", [SEVERITIES.index(severity) for severity in severities]),
        ("rule", list(rules)),
    ):
        if wanted:
            wheres.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    try:
        rows = connection.execute(
            f"SELECT * FROM incidents WHERE {' AND '.join(wheres)} ORDER BY last_event_ms DESC, id LIMIT ?",
            (*values, -1 if limit is None else limit),
        ).fetchall()
    finally:
        connection.close()
    return [incident_of(stored_of(row)) for row in rows]


def read_incident(path: Path, id_or_prefix: str) -> Incident:
    """One incident; its id may be cut short as long as it is unique.

    Raises:
        StateError: no such incident, or several.
    """
    connection = open_reader(path)
    if connection is None:
        raise StateError(f"expected an incident {id_or_prefix!r}, but there are none yet; run the stream first")
    try:
        return incident_of(_find(connection, id_or_prefix))
    finally:
        connection.close()


def count_incidents(path: Path) -> dict[State, int]:
    """How many incidents there are in each state; every state is named."""
    counts = dict.fromkeys(State, 0)
    connection = open_reader(path)
    if connection is not None:
        try:
            for state, count in connection.execute(f"SELECT {_STATE_SQL}, count(*) FROM incidents GROUP BY 1"):
                counts[State(state)] = count
        finally:
            connection.close()
    return counts
