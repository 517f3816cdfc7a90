"""The SQLite file of incidents and notifications: its tables, how it is opened, what its errors mean."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from shopstream.errors import BackpressureError, RetryableError, ShopstreamError, StateError

__all__ = ["Connection", "explained", "open_reader", "open_writer", "transaction"]

_VERSION = 2
_BUSY = timedelta(seconds=10)

_TABLES = """
CREATE TABLE incidents (
    scope TEXT NOT NULL,             -- digest of rule and key; the id is scope-ordinal
    ordinal INTEGER NOT NULL,        -- which episode of the scope
    rule TEXT NOT NULL,
    severity INTEGER NOT NULL,       -- rank
    end_ms INTEGER NOT NULL,
    last_event_ms INTEGER NOT NULL,
    closes_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    facts TEXT NOT NULL,             -- JSON, see rows.py
    handling TEXT NOT NULL DEFAULT 'none',
    handled_ms INTEGER,
    comment TEXT NOT NULL DEFAULT '',
    root TEXT NOT NULL DEFAULT '',   -- id of the head of what people see it in; its own id for a head
    role TEXT NOT NULL DEFAULT 'head',
    chain TEXT NOT NULL DEFAULT '',  -- what may yet become one incident with it has the same
    actor_kind TEXT,
    actor TEXT,
    verdict TEXT NOT NULL DEFAULT '',
    told INTEGER NOT NULL DEFAULT 0, -- 1 + rank of the severity that people were told of, for a head
    context TEXT,                    -- JSON, see engine.recent
    PRIMARY KEY (scope, ordinal)
) WITHOUT ROWID;
CREATE INDEX incidents_open ON incidents (closed) WHERE closed = 0;
CREATE TABLE ordinals (              -- of scopes whose incidents retention took away
    scope TEXT PRIMARY KEY,
    ordinal INTEGER NOT NULL,
    end_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE notifications (
    reference TEXT NOT NULL,         -- what a receiver tells repetitions by
    target TEXT NOT NULL,
    incident_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity INTEGER NOT NULL,
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
"""

_NEW_IN_2 = """
CREATE INDEX incidents_root ON incidents (root);
CREATE INDEX incidents_chain ON incidents (chain);
CREATE INDEX incidents_verdict ON incidents (verdict) WHERE verdict <> '';
CREATE TABLE heads (                 -- what people see: sums over the episodes under one head
    scope TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    nature INTEGER NOT NULL,
    first_event_ms INTEGER NOT NULL,
    last_event_ms INTEGER NOT NULL,
    detected_ms INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    campaign INTEGER NOT NULL,
    episodes INTEGER NOT NULL,
    facts TEXT NOT NULL,             -- JSON, see heads.py
    PRIMARY KEY (scope, ordinal)
) WITHOUT ROWID;
CREATE INDEX heads_newest ON heads (last_event_ms);
CREATE TABLE marks (                 -- where the engine was when it last wrote
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""

_FROM_1_TO_2 = f"""
ALTER TABLE incidents ADD COLUMN root TEXT NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN role TEXT NOT NULL DEFAULT 'head';
ALTER TABLE incidents ADD COLUMN chain TEXT NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN actor_kind TEXT;
ALTER TABLE incidents ADD COLUMN actor TEXT;
ALTER TABLE incidents ADD COLUMN verdict TEXT NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN context TEXT;
{_NEW_IN_2}UPDATE incidents SET root = scope || '-' || ordinal, chain = scope || '-' || ordinal,
    told = coalesce(
        (SELECT 1 + max(n.severity) FROM notifications AS n WHERE n.incident_id = scope || '-' || ordinal), 0);
UPDATE incidents SET (actor_kind, actor) = (
    SELECT key, value FROM json_each(facts, '$.keys')
    WHERE key IN ('user_id', 'user_session', 'ip', 'user_agent') LIMIT 1);
INSERT INTO heads SELECT scope, ordinal, severity, 0, facts ->> '$.first_event_ms', last_event_ms,
    coalesce(facts ->> '$.detected_ms', facts ->> '$.detected_early_ms'), closed, 0, 1,
    json_object('rules', json_array(rule), 'contributions', json_object(rule, 0.8), 'tags', facts -> '$.words[3]',
        'windows', (facts ->> '$.settled') + json_array_length(facts, '$.pending'), 'verdict', '')
    FROM incidents;
INSERT INTO marks SELECT 'watermark_ms', max(end_ms) FROM incidents HAVING count(*) > 0;
"""
"""Every episode is an incident for people at first, as it was."""


class Connection(sqlite3.Connection):
    """A connection that may ask before it commits.

    Args:
        before_commit: called inside each `transaction` when all is written; what it raises undoes all.
    """

    before_commit: Callable[[], None] | None = None


def open_writer(path: Path) -> Connection:
    """A connection that may write; makes the file and its folder where they are missing.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with explained(path):
        connection = _connect(path.resolve().as_uri())
        connection.execute("PRAGMA journal_mode = WAL")
        # What is applied survives power loss: the engine's checkpoint, written after it, must not be ahead of it.
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection, path):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version in {0, 1}:
                for statement in (_TABLES + _NEW_IN_2 if version == 0 else _FROM_1_TO_2).split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        _check_version(connection, path)
    return connection


def open_reader(path: Path) -> Connection | None:
    """A connection that cannot write, while others do; None as long as there is no store.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    if not path.is_file():
        return None
    with explained(path):
        connection = _connect(path.resolve().as_uri() + "?mode=ro")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 1:
            open_writer(path).close()  # brings it up to date
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process is just making it
            connection.close()
            return None
        _check_version(connection, path)
    return connection


@contextmanager
def transaction(connection: Connection, path: Path) -> Iterator[None]:
    """All or nothing, one writer at a time.

    Raises:
        RetryableError: busy or full; nothing was changed.
        StateError: the file is damaged.
    """
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            if connection.before_commit is not None:
                connection.before_commit()
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _connect(uri: str) -> Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY.total_seconds(), factory=Connection)
    connection.row_factory = sqlite3.Row
    return connection


def _check_version(connection: Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        connection.close()
        raise StateError(
            f"expected an incident store of version {_VERSION} at {path}, got version {version}; use the shopstream "
            "that wrote it, or move the file away"
        )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours.

    Raises:
        RetryableError: busy or full.
        StateError: damaged, or no incident store.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _error(error, path) from error


def _error(error: sqlite3.Error, path: Path) -> ShopstreamError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the primary code of an extended one
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return BackpressureError(
            f"another process holds {path} for more than {_BUSY.seconds} s; try again", timedelta(seconds=1)
        )
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return RetryableError(f"{path} cannot be read or written ({error}); free disk space, check the path's rights")
    return StateError(f"{path} is no incident store, or damaged ({error}); move it away and run again")
