"""SQLite for the embedded stream: schema, connections, transactions, and translated errors.

docs/adr/0002-embedded-stream-on-sqlite.md explains the choices, with figures.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from filelock import FileLock

from shopstream.errors import BackpressureError, PermanentError, ShopstreamError, StateError

PAGE_BYTES = 32768
"""Large pages keep the overflow chains of 256 KiB payloads short; 64 KiB pages are hardly faster and waste more."""

_APPLICATION_ID = 0x73687374  # "shst": other programs' SQLite files are refused, not written to
_FORMAT = 1
_BUSY_SECONDS = 10.0
_CHECKPOINT_PATIENCE_MS = 250
_CACHE_KIB = 8192

_SCHEMA = """
CREATE TABLE stream (  -- one row
  last_sequence INTEGER NOT NULL,
  last_arrival_ms INTEGER NOT NULL,
  shape INTEGER NOT NULL  -- grows with each split or merge, so that writers renew their routes
);
CREATE TABLE shard (
  shard_no INTEGER PRIMARY KEY,
  first_hash_key TEXT NOT NULL,  -- 32 hex digits
  last_hash_key TEXT NOT NULL,
  parents TEXT NOT NULL,  -- shard numbers, separated by blanks
  closed_ms INTEGER,
  newest_sequence INTEGER NOT NULL,
  trimmed_sequence INTEGER NOT NULL,  -- retention dropped up to here
  records INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE record (
  sequence_number INTEGER PRIMARY KEY,  -- grows over all shards: every insert is an append at the end of the file
  shard_no INTEGER NOT NULL,
  arrival_ms INTEGER NOT NULL,
  partition_key TEXT NOT NULL,
  payload BLOB NOT NULL
);
CREATE INDEX record_of_shard ON record (shard_no, sequence_number);
CREATE TABLE position (
  consumer TEXT NOT NULL,
  shard_no INTEGER NOT NULL,
  sequence_number INTEGER NOT NULL,
  PRIMARY KEY (consumer, shard_no)
) WITHOUT ROWID;
"""


def create(path: Path, rows: list[tuple[str, tuple[object, ...]]]) -> None:
    """Create the file with its schema and first rows, whole or not at all; an existing file stays as it is."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if path.exists():  # another process was first
            return
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)  # what a killed process left
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            for statement, values in rows:
                connection.execute(statement, values)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
            connection.execute("COMMIT")
        finally:
            connection.close()  # the last connection to close checkpoints the write-ahead log
        draft.replace(path)


@dataclass
class Database:
    """Connections to one file, lent to any number of threads.

    Args:
        path: the file; must exist.
        fsync: see `StreamSettings.fsync`.
        checkpoint_bytes: size at which the write-ahead log is copied into the file.
    """

    path: Path
    fsync: Literal["always", "batch", "never"]
    checkpoint_bytes: int
    _idle: list[sqlite3.Connection] = field(default_factory=list)
    _closed: bool = False
    _lending: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)  # queues writers; SQLite's own lock only polls

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """All reads inside see one state of the stream, whatever other connections write."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all writes of the block together, or none if it raises."""
        with self._writing, self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @property
    def log(self) -> Path:
        """The write-ahead log beside the file."""
        return self.path.with_name(self.path.name + "-wal")

    def disk_bytes(self) -> int:
        """Size of the file and its write-ahead log."""
        return _size(self.path) + _size(self.log)

    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        return _size(self.log)

    def checkpoint_log(self) -> None:
        """Copy the whole write-ahead log into the file and truncate it; waits a moment for readers of older states.

        SQLite does this after a commit, but only when no reader is active; a busy consumer leaves no such moment.
        """
        with self._writing, self._connection() as connection:
            connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_PATIENCE_MS}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")

    def close(self) -> None:
        """Close idle connections now and lent ones when they come back."""
        with self._lending:
            self._closed = True
            while self._idle:
                self._idle.pop().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lending:
            if self._closed:
                raise PermanentError(f"the stream {self.path} was closed; open it again")
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except sqlite3.Error as error:
            raise self._translate(error) from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lending:
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=_BUSY_SECONDS,
            check_same_thread=False,  # lent to one thread at a time
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (_APPLICATION_ID, _FORMAT):
            raise StateError(
                f"expected a stream of format {_FORMAT} in {self.path}, found application {application:#x} format "
                f"{version}; move the file away or name another home"
            )
        level = {"always": "FULL", "batch": "NORMAL", "never": "OFF"}[self.fsync]
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {self.checkpoint_bytes // PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_size_limit = {self.checkpoint_bytes}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA secure_delete = OFF")  # some builds zero each dropped page: twice the writing

    def _translate(self, error: sqlite3.Error) -> ShopstreamError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte; the rest is detail
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return BackpressureError(
                f"another process has kept {self.path} locked for {_BUSY_SECONDS:.0f} s; try again",
                timedelta(seconds=1),
            )
        if code == sqlite3.SQLITE_FULL:
            return BackpressureError(
                f"the disk of {self.path} is full; free some space or move the home", timedelta(seconds=10)
            )
        return StateError(
            f"the stream {self.path} cannot be used: {error}; if it is damaged, restore a copy, or move it away and "
            "start with a new one"
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
