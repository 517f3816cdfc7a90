"""Incidents in one SQLite file: the embedded adapter of `ports.IncidentStore`."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Unpack
from uuid import uuid4

from shopstream.clock import Clock
from shopstream.detection.detection import SEVERITIES
from shopstream.errors import BackpressureError, RetryableError, ShopstreamError, StateError
from shopstream.incidents.incident import Actor, Incident, State, TriageStatus, state_of
from shopstream.incidents.ports import (
    BEFORE_ALL,
    UNCOMMITTED,
    DeliveryState,
    IncidentFilter,
    IncidentUpdate,
    LastOrdinal,
    Notification,
    RowVersion,
    notification_of,
)
from shopstream.incidents.record import (
    IncidentRow,
    Triage,
    document_of,
    incident_of,
    record_of,
    summary_of,
)

_VERSION: Final = 3
_PRAGMA: Final = f"PRAGMA user_version = {_VERSION}"
_BUSY: Final = timedelta(seconds=10)

_TABLES: Final = """
CREATE TABLE incidents (
    id TEXT PRIMARY KEY,
    root TEXT NOT NULL,              -- id of the incident that people see it in; its own for a head
    absorbed INTEGER NOT NULL,       -- whether the episode is part of the episode `root` by now
    closed INTEGER NOT NULL,
    closes_ms INTEGER NOT NULL,
    first_event_ms INTEGER NOT NULL,
    last_event_ms INTEGER NOT NULL,
    actor_kind TEXT,
    actor TEXT,
    verdict TEXT NOT NULL,
    document TEXT NOT NULL,          -- JSON, see record.py
    generation INTEGER NOT NULL,     -- of the checkpoint that holds it
    summary TEXT,                    -- JSON; for heads, as are the next four
    summary_severity INTEGER,
    summary_closed INTEGER,
    summary_last_ms INTEGER,
    status TEXT NOT NULL DEFAULT 'none',  -- from here on people's, and the context
    status_ms INTEGER,
    owner TEXT NOT NULL DEFAULT '',
    comment TEXT NOT NULL DEFAULT '',
    context TEXT
) WITHOUT ROWID;
CREATE INDEX incidents_root ON incidents (root);
CREATE INDEX incidents_newest ON incidents (summary_last_ms) WHERE summary_last_ms IS NOT NULL;
CREATE INDEX incidents_verdict ON incidents (verdict) WHERE verdict <> '';
CREATE INDEX incidents_generation ON incidents (generation);
CREATE TABLE ordinals (              -- the newest incident of each rule and key
    scope TEXT PRIMARY KEY,
    ordinal INTEGER NOT NULL,
    last_event_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE notifications (
    reference TEXT NOT NULL,         -- incident and severity: nobody is notified of both twice
    target TEXT NOT NULL,
    incident_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    finished_ms INTEGER,
    error TEXT,
    PRIMARY KEY (reference, target)
) WITHOUT ROWID;
CREATE INDEX notifications_incident ON notifications (incident_id);
CREATE INDEX notifications_pending ON notifications (target, due_ms) WHERE state = 'pending';
CREATE TABLE progress (as_of_ms INTEGER NOT NULL);
"""

_WRITTEN: Final = (
    *("id", "root", "absorbed", "closed", "closes_ms", "first_event_ms", "last_event_ms", "actor_kind", "actor"),
    *("verdict", "document", "generation", "summary", "summary_severity", "summary_closed", "summary_last_ms"),
)
_UPSERT: Final = (
    f"INSERT INTO incidents ({', '.join(_WRITTEN)}) VALUES ({', '.join('?' * len(_WRITTEN))}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _WRITTEN[1:])} "
    f"WHERE generation < excluded.generation + {UNCOMMITTED}"
)
_RENAME: Final = (
    # An id whose episode was absorbed is given again, to a later episode: people are notified of that one, too.
    "UPDATE notifications SET reference = reference || ':' || i.last_event_ms, incident_id = i.root "
    "FROM incidents AS i WHERE i.id = ?1 AND incident_id = ?1 AND i.absorbed AND i.last_event_ms < ?2"
)
_READ: Final = "SELECT i.*, h.status AS root_status FROM incidents AS i LEFT JOIN incidents AS h ON h.id = i.root"
_ACTORS: Final = (
    "SELECT DISTINCT i.root, i.actor_kind, i.actor FROM json_each(?) AS wanted JOIN incidents AS i "
    "ON i.root = wanted.value WHERE i.actor IS NOT NULL AND NOT i.absorbed ORDER BY 1, 2, 3"
)
_ANY_RULE: Final = (
    "EXISTS (SELECT 1 FROM json_each(i.summary, '$.rules') AS had JOIN json_each(?) AS asked "
    "ON had.value = asked.value)"
)
_GONE: Final = (
    "(SELECT id FROM incidents WHERE root IN (SELECT root FROM incidents GROUP BY root "
    "HAVING min(closed) = 1 AND max(closes_ms) < ?))"
)


class EmbeddedIncidentStore:
    """See `ports.IncidentStore`. Without a file it is empty; the first write makes the file.

    Args:
        path: the SQLite file.
        clock: for the moments of notifications and of what people do.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._opened: sqlite3.Connection | None = None
        if path.is_file():
            self._connection()

    def put(self, update: IncidentUpdate) -> None:
        """See `ports.IncidentStore.put`."""
        now_ms = self._clock.now_ms()
        with self._transaction() as connection:
            connection.executemany(_RENAME, [(row.record.id, row.record.episode.first_event_ms) for row in update.rows])
            for row in update.rows:
                if not connection.execute(_UPSERT, _values(row, update.generation)).rowcount:
                    raise StateError(
                        f"expected no row of a later checkpoint than {update.generation} at {self._path}; another "
                        "process writes to it, stop one of them"
                    )
            for absorbed, into in update.absorbed.items():
                self._absorb(connection, absorbed, into, update.generation)
            connection.executemany(
                "INSERT OR REPLACE INTO ordinals VALUES (?, ?, ?)",
                [(scope, *last) for scope, last in update.ordinals.items()],
            )
            connection.executemany(
                "INSERT INTO notifications (reference, target, incident_id, kind, severity, due_ms, created_ms) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (one.reference, one.target, one.incident_id, one.kind, one.severity, now_ms, now_ms)
                    for one in update.notifications
                ],
            )
            connection.execute("UPDATE progress SET as_of_ms = ?", (update.as_of_ms,))

    @staticmethod
    def _absorb(connection: sqlite3.Connection, absorbed: str, into: str, generation: int) -> None:
        connection.execute(
            "UPDATE incidents SET (status, status_ms, owner, comment) = "
            "(SELECT status, status_ms, owner, comment FROM incidents WHERE id = ?1) "
            "WHERE id = ?2 AND status = 'none' AND EXISTS (SELECT 1 FROM incidents WHERE id = ?1 AND status <> 'none')",
            (absorbed, into),
        )
        connection.execute(
            "UPDATE incidents SET root = ?2, absorbed = 1, closed = 1, verdict = '', generation = ?3, summary = NULL, "
            "summary_severity = NULL, summary_closed = NULL, summary_last_ms = NULL, status = 'none', "
            "status_ms = NULL, owner = '', comment = '', context = NULL WHERE id = ?1",
            (absorbed, into, generation),
        )

    def get(self, id_or_prefix: str) -> Incident:
        """See `ports.IncidentStore.get`."""
        scope, _, ordinal = id_or_prefix.encode(errors="replace").decode().partition("-")
        with self._reading() as connection:
            if connection is None:
                raise StateError(f"no incident has the id {id_or_prefix!r}: there are none yet; run the stream first")
            rows = connection.execute(
                f"{_READ} WHERE i.id >= ?1 AND i.id < ?1 || 'g' "
                "AND (?2 = '' OR substr(i.id, instr(i.id, '-') + 1) = ?2) ORDER BY i.absorbed LIMIT 2",
                (scope, ordinal),
            ).fetchall()
            if not rows or not scope:
                raise StateError(f"no incident has the id {id_or_prefix!r}; see `shopstream incidents list`")
            if len(rows) > 1 and rows[0]["absorbed"] == rows[1]["absorbed"]:
                raise StateError(
                    f"several incidents fit {id_or_prefix!r}; write more of the id, see `shopstream incidents list`"
                )
            if not rows[0]["absorbed"]:
                return self._incidents(connection, rows)[0]
        return self.get(rows[0]["root"])

    def list(self, *, limit: int | None = None, **only: Unpack[IncidentFilter]) -> list[Incident]:
        """See `ports.IncidentStore.list`."""
        wanted = set(only.get("states", ()))
        pairs = [
            [status, int(closed)]
            for status in TriageStatus
            for closed in (False, True)
            if state_of(status, closed=closed) in wanted
        ]
        ranks = [SEVERITIES.index(severity) for severity in only.get("severities", ())]
        filters = (
            (
                "json_array(i.status, i.summary_closed) IN (SELECT value FROM json_each(?))",
                [json.dumps(one, separators=(",", ":")) for one in pairs],
            ),
            ("i.summary_severity IN (SELECT value FROM json_each(?))", ranks),
            (_ANY_RULE, list(only.get("rules", ()))),
        )
        chosen = [(sql, json.dumps(values)) for sql, values in filters if values]
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                f"{_READ} WHERE {' AND '.join(['i.summary_last_ms IS NOT NULL', *(sql for sql, _ in chosen)])} "
                "ORDER BY i.summary_last_ms DESC, i.id LIMIT ?",
                (*(values for _, values in chosen), -1 if limit is None else limit),
            ).fetchall()
            return [*self._incidents(connection, rows)]

    def parts(self, incident_id: str) -> Sequence[Incident]:
        """See `ports.IncidentStore.parts`."""
        parts = self._episodes("i.root = ? AND NOT i.absorbed", incident_id)
        return sorted(parts, key=lambda one: (one.parent is not None, one.detected_at_event_time, one.id))

    def actors(self, since_ms: int = BEFORE_ALL) -> Sequence[Incident]:
        """See `ports.IncidentStore.actors`."""
        found = self._episodes("i.verdict <> '' AND i.actor IS NOT NULL AND i.last_event_ms >= ?", since_ms)
        return sorted(found, key=lambda one: (one.first_event_time, one.actors, one.rule))

    def _episodes(self, condition: str, value: object) -> Sequence[Incident]:
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(f"{_READ} WHERE {condition}", (value,)).fetchall()
        return [_incident(row, whole=False) for row in rows]

    def count(self) -> dict[State, int]:
        """See `ports.IncidentStore.count`."""
        counts = dict.fromkeys(State, 0)
        with self._reading() as connection:
            if connection is not None:
                for status, closed, count in connection.execute(
                    "SELECT status, summary_closed, count(*) FROM incidents WHERE summary_last_ms IS NOT NULL "
                    "GROUP BY 1, 2"
                ):
                    counts[state_of(TriageStatus(status), closed=bool(closed))] += count
        return counts

    def as_of_ms(self) -> int | None:
        """See `ports.IncidentStore.as_of_ms`."""
        with self._reading() as connection:
            found = None if connection is None else connection.execute("SELECT as_of_ms FROM progress").fetchone()
        return None if found is None or found[0] == BEFORE_ALL else int(found[0])

    def set_status(
        self, id_or_prefix: str, status: TriageStatus, *, comment: str | None = None, owner: str | None = None
    ) -> Incident:
        """See `ports.IncidentStore.set_status`."""
        found = self.get(id_or_prefix)
        moment = None if status is TriageStatus.NONE else self._clock.now_ms()
        with self._transaction() as connection:
            connection.execute(
                "UPDATE incidents SET status = ?, status_ms = ?, comment = coalesce(?, comment), "
                f"owner = coalesce(?, owner) WHERE {'id' if found.parent else 'root'} = ? AND NOT absorbed",
                (status, moment, comment, owner, found.id),
            )
        return self.get(found.id)

    def set_context(self, incident_id: str, context: Mapping[str, object]) -> None:
        """See `ports.IncidentStore.set_context`."""
        with self._transaction() as connection:
            connection.execute("UPDATE incidents SET context = ? WHERE id = ?", (json.dumps(context), incident_id))

    def last_ordinals(self, scopes: Iterable[str]) -> dict[str, LastOrdinal]:
        """See `ports.IncidentStore.last_ordinals`."""
        found = self._rows(
            "SELECT o.* FROM json_each(?) AS wanted JOIN ordinals AS o ON o.scope = wanted.value",
            json.dumps(sorted(scopes)),
        )
        return {row["scope"]: LastOrdinal(row["ordinal"], row["last_event_ms"]) for row in found}

    def statuses(self, ids: Iterable[str]) -> dict[str, TriageStatus]:
        """See `ports.IncidentStore.statuses`."""
        found = self._rows(
            "SELECT i.id, i.status FROM json_each(?) AS wanted JOIN incidents AS i ON i.id = wanted.value",
            json.dumps(sorted(ids)),
        )
        return {row["id"]: TriageStatus(row["status"]) for row in found}

    def written_after(self, generation: int) -> Sequence[RowVersion]:
        """See `ports.IncidentStore.written_after`."""
        found = self._rows("SELECT id, generation, closes_ms FROM incidents WHERE generation > ?", generation)
        return [RowVersion(*row) for row in found]

    def remove(self, ids: Iterable[str]) -> None:
        """See `ports.IncidentStore.remove`."""
        gone = [(one,) for one in ids]
        with self._transaction() as connection:
            connection.executemany("DELETE FROM notifications WHERE incident_id = ? AND state <> 'sent'", gone)
            connection.executemany("DELETE FROM incidents WHERE id = ?", gone)

    def forget(self, before_ms: int, ordinals_before_ms: int) -> None:
        """See `ports.IncidentStore.forget`."""
        with self._transaction() as connection:
            connection.execute(f"DELETE FROM notifications WHERE incident_id IN {_GONE}", (before_ms,))
            connection.execute(f"DELETE FROM incidents WHERE id IN {_GONE}", (before_ms,))
            connection.execute("DELETE FROM ordinals WHERE last_event_ms < ?", (ordinals_before_ms,))

    def pending(self, target: str, now_ms: int) -> Sequence[Notification]:
        """See `ports.IncidentStore.pending`."""
        return self._notifications(
            "state = 'pending' AND target = ? AND due_ms <= ? ORDER BY created_ms, reference", target, now_ms
        )

    def mark(
        self, references: Sequence[str], target: str, state: DeliveryState, at_ms: int, error: str | None = None
    ) -> None:
        """See `ports.IncidentStore.mark`."""
        moment = "due_ms" if state is DeliveryState.PENDING else "finished_ms"
        with self._transaction() as connection:
            connection.executemany(
                f"UPDATE notifications SET attempts = attempts + 1, state = ?, {moment} = ?, error = ? "
                "WHERE target = ? AND reference = ?",
                [(state, at_ms, error, target, reference) for reference in references],
            )

    def retry_failed(self, now_ms: int) -> int:
        """See `ports.IncidentStore.retry_failed`."""
        if not self._path.is_file():
            return 0
        with self._transaction() as connection:
            return connection.execute(
                "UPDATE notifications SET state = 'pending', attempts = 0, due_ms = ?, finished_ms = NULL "
                "WHERE state = 'failed'",
                (now_ms,),
            ).rowcount

    def notifications(self, *, incident_id: str | None = None, limit: int | None = None) -> Sequence[Notification]:
        """See `ports.IncidentStore.notifications`."""
        return self._notifications(
            "?1 IS NULL OR incident_id = ?1 OR incident_id IN (SELECT id FROM incidents WHERE root = ?1) "
            "ORDER BY created_ms DESC, reference, target LIMIT ?2",
            incident_id,
            -1 if limit is None else limit,
        )

    def close(self) -> None:
        """See `ports.IncidentStore.close`."""
        if self._opened is not None:
            self._opened.close()

    @staticmethod
    def _incidents(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> Sequence[Incident]:
        actors: dict[str, list[Actor]] = {}
        heads = json.dumps([row["id"] for row in rows if row["summary"] is not None])
        for root, kind, value in connection.execute(_ACTORS, (heads,)):
            actors.setdefault(root, []).append(Actor(kind, value))
        return [_incident(row, actors.get(row["id"], ())) for row in rows]

    def _notifications(self, condition: str, *values: object) -> Sequence[Notification]:
        rows = self._rows(f"SELECT * FROM notifications WHERE {condition}", *values)
        return [notification_of(dict(row)) for row in rows]

    def _rows(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        with self._reading() as connection:
            return () if connection is None else connection.execute(sql, values).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """None as long as there is no file."""
        with self._explained():
            yield self._connection() if self._path.is_file() else None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time."""
        connection = self._connection()
        with self._explained():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        if self._opened is not None:
            return self._opened
        with self._explained():
            if not self._path.is_file():
                self._create()
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY.total_seconds())
            connection.row_factory = sqlite3.Row
            # What is applied survives power loss: the engine's checkpoint, written after it, must not be ahead of it.
            connection.execute("PRAGMA synchronous = FULL")
            if (version := connection.execute("PRAGMA user_version").fetchone()[0]) != _VERSION:
                connection.close()
                raise StateError(
                    f"expected an incident store of version {_VERSION} at {self._path}, got version {version}; use the "
                    "shopstream that wrote it, or move the file away"
                )
        self._opened = connection
        return connection

    def _create(self) -> None:
        """Make the file elsewhere and give it its name at once: who opens it finds it whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{uuid4().hex}")
        with closing(sqlite3.connect(new)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"{_TABLES}; INSERT INTO progress VALUES ({BEFORE_ALL}); {_PRAGMA}")
        with suppress(FileExistsError):  # another process was faster
            os.link(new, self._path)
        new.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> ShopstreamError:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the primary code of an extended one
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return BackpressureError(
                f"another process holds {self._path} for more than {_BUSY.seconds} s; try again", timedelta(seconds=1)
            )
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
            return RetryableError(
                f"{self._path} cannot be read or written ({error}); free disk space, check the path's rights"
            )
        return StateError(f"{self._path} is no incident store, or damaged ({error}); move it away and run again")


def _values(row: IncidentRow, generation: int) -> tuple[object, ...]:
    """The parameters of `_UPSERT`."""
    record, summary = row
    episode, actor = record.episode, record.actor
    return (
        *(record.id, record.root, False, record.closed, episode.closes_ms),
        *(episode.first_event_ms, episode.last_event_ms),
        *(actor or (None, None)),
        *(episode.verdict, json.dumps(document_of(record)), generation),
        *(
            (json.dumps(summary._asdict()), summary.severity, summary.closed, summary.last_event_ms)
            if summary
            else (None, None, None, None)
        ),
    )


def _incident(row: sqlite3.Row, actors: Sequence[Actor] = (), *, whole: bool = True) -> Incident:
    summary = row["summary"] if whole else None
    return incident_of(
        IncidentRow(record_of(json.loads(row["document"])), summary_of(json.loads(summary)) if summary else None),
        Triage(TriageStatus(row["status"]), row["status_ms"], row["owner"], row["comment"]),
        actors=actors,
        context=json.loads(row["context"]) if row["context"] else None,
        parent_status=TriageStatus(row["root_status"] or "none") if row["root"] != row["id"] else TriageStatus.NONE,
    )
