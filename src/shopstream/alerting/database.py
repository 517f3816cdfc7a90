"""The SQLite file of incidents and notifications: its tables, how it is opened, what its errors mean."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from shopstream.errors import BackpressureError, RetryableError, ShopstreamError, StateError

__all__ = ["explained", "open_reader", "open_writer", "transaction"]

_VERSION = 1
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


def open_writer(path: Path) -> sqlite3.Connection:
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
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        _check_version(connection, path)
    return connection


def open_reader(path: Path) -> sqlite3.Connection | None:
    """A connection that cannot write, while others do; None as long as there is no store.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    if not path.is_file():
        return None
    with explained(path):
        connection = _connect(path.resolve().as_uri() + "?mode=ro")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # another process is just making it
            connection.close()
            return None
        _check_version(connection, path)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing, one writer at a time.

    Raises:
        RetryableError: busy or full; nothing was changed.
        StateError: the file is damaged.
    """
    with explained(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY.total_seconds())
    connection.row_factory = sqlite3.Row
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
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
