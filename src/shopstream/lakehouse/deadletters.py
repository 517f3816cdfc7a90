"""Dead letters: what was rejected and why, and sending it again, once.

A replay puts the bytes back into the stream, then remembers the id in a ledger beside the tables. A second replay of
the same id does nothing. A crash between the two steps sends the bytes twice: the events are duplicates by then
(same time and id) and are dropped as such. Bytes that fail again become a new dead letter, with an id of its own.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock

from shopstream.clock import Clock
from shopstream.errors import PermanentError, RetryableError
from shopstream.events.codec import decode
from shopstream.events.schema import DEAD_LETTER_FIELDS
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.tables import create_views
from shopstream.stream.ports import MAX_PUT_BYTES, MAX_PUT_RECORDS, NewRecord, StreamWriter

__all__ = ["LEDGER_FILE", "DeadLetters", "Outcome", "Replayed"]

LEDGER_FILE = "replays.db"
"""The ledger of replays, inside the lakehouse's folder."""

_LEDGER = """
CREATE TABLE IF NOT EXISTS replays (
    dead_letter_id  TEXT PRIMARY KEY,
    replayed_at_ms  INTEGER NOT NULL,
    shard_id        TEXT NOT NULL,
    sequence_number TEXT NOT NULL
) STRICT
"""
_KEY_BYTES = 256
"""Of a put's size, what is reserved for a partition key."""

_HEAD = ", ".join(field.name for field in DEAD_LETTER_FIELDS if field.name != "payload")


class Outcome(StrEnum):
    """What a replay did with one dead letter."""

    SENT = "sent"
    SENT_BEFORE = "sent_before"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One dead letter's replay: where the bytes stand in the stream now, or why the stream refused them."""

    dead_letter_id: str
    outcome: Outcome
    detail: str


class DeadLetters:
    """The rejected bytes in the lakehouse.

    Args:
        lakehouse: holds them.
        folder: of the lakehouse; the ledger of replays is kept there.
        clock: tells when a replay was.
    """

    def __init__(self, lakehouse: Lakehouse, folder: Path, clock: Clock) -> None:
        self._lakehouse = lakehouse
        self._ledger = folder / LEDGER_FILE
        self._lock = FileLock(folder / "replays.lock", timeout=0)
        self._clock = clock

    def by_reason(self) -> list[dict[str, Any]]:
        """Reason, how many, first and last arrival; most frequent first."""
        with self._view() as view:
            return _rows(
                view.execute(
                    "SELECT reason, count(*) AS dead_letters, min(arrival_time) AS first_arrival, "
                    "max(arrival_time) AS last_arrival FROM dead_letters GROUP BY reason ORDER BY 2 DESC, 1"
                )
            )

    def newest(self, limit: int, reason: str | None = None) -> list[dict[str, Any]]:
        """All but the payload of the newest dead letters, and when they were replayed (epoch milliseconds or None)."""
        with self._view() as view:
            rows = _rows(
                view.execute(
                    f"SELECT {_HEAD} FROM dead_letters WHERE $reason IS NULL OR reason = $reason "
                    "ORDER BY arrival_time DESC, shard_id, sequence_number DESC, place DESC LIMIT $limit",
                    {"reason": reason, "limit": limit},
                )
            )
        replayed = self._replayed()
        return [{**row, "replayed_at_ms": replayed.get(row["dead_letter_id"])} for row in rows]

    def get(self, dead_letter_id: str) -> dict[str, Any]:
        """One dead letter with its payload; the id may be cut to its first characters.

        Raises:
            PermanentError: no dead letter, or several, have such an id.
        """
        with self._view() as view:
            rows = _rows(
                view.execute(
                    "SELECT * FROM dead_letters WHERE starts_with(dead_letter_id, $id) ORDER BY arrival_time LIMIT 2",
                    {"id": dead_letter_id},
                )
            )
        if len(rows) != 1:
            fits = "several" if rows else "none"
            raise PermanentError(
                f"expected the id of one dead letter, got {dead_letter_id!r}, which fits {fits}; "
                "`shopstream deadletters list` shows the ids"
            )
        return {**rows[0], "replayed_at_ms": self._replayed().get(rows[0]["dead_letter_id"])}

    def replay(self, ids: Sequence[str], writer: StreamWriter, payload: bytes | None = None) -> list[Replayed]:
        """Put dead letters back into the stream, each once.

        Args:
            ids: which; may be cut to their first characters.
            writer: the stream.
            payload: corrected bytes, for one id alone.

        Raises:
            PermanentError: an unknown id, or `payload` for several.
            BackpressureError: the stream is full; what was sent before is remembered.
            RetryableError: another replay is under way.
        """
        if payload is not None and len(ids) != 1:
            raise PermanentError(f"expected one id for corrected bytes, got {len(ids)}; replay them one by one")
        letters = {row["dead_letter_id"]: row for row in map(self.get, dict.fromkeys(ids))}
        bodies = ((id_, row["payload"] if payload is None else payload) for id_, row in letters.items())
        return self._send(bodies, writer)

    def replay_all(self, writer: StreamWriter, reason: str | None = None) -> list[Replayed]:
        """Put all dead letters (of one reason) back into the stream that were not before, oldest first.

        Raises:
            BackpressureError: the stream is full; what was sent before is remembered.
            RetryableError: another replay is under way.
        """
        with self._view() as view:
            cursor = view.execute(
                "SELECT dead_letter_id, payload FROM dead_letters WHERE $reason IS NULL OR reason = $reason "
                "ORDER BY arrival_time, shard_id, sequence_number, place",
                {"reason": reason},
            )
            return self._send(iter(cursor.fetchone, None), writer)

    def _send(self, bodies: Iterator[tuple[str, bytes]], writer: StreamWriter) -> list[Replayed]:
        try:
            self._lock.acquire()
        except TimeoutError as error:
            raise RetryableError("another replay of dead letters is under way; wait for it") from error
        try:
            done = self._replayed()
            results: list[Replayed] = []
            batch: dict[str, bytes] = {}
            for dead_letter_id, payload in bodies:
                if dead_letter_id in done:
                    results.append(Replayed(dead_letter_id, Outcome.SENT_BEFORE, "not sent again"))
                    continue
                size = sum(map(len, batch.values())) + len(payload) + _KEY_BYTES * (len(batch) + 1)
                if batch and (len(batch) == MAX_PUT_RECORDS or size > MAX_PUT_BYTES):
                    results += self._put(batch, writer)
                    batch = {}
                batch[dead_letter_id] = payload
            return results + (self._put(batch, writer) if batch else [])
        finally:
            self._lock.release()

    def _put(self, batch: Mapping[str, bytes], writer: StreamWriter) -> list[Replayed]:
        keys = _partition_keys(batch, self._clock.now_ms())
        records = [NewRecord(payload, keys[dead_letter_id]) for dead_letter_id, payload in batch.items()]
        results = []
        with self._open_ledger() as ledger:
            for dead_letter_id, outcome in zip(batch, writer.put(records), strict=True):
                if outcome.error_code is not None:
                    detail = f"{outcome.error_code}: {outcome.error_message}"
                    results.append(Replayed(dead_letter_id, Outcome.REFUSED, detail))
                    continue
                place = (str(outcome.shard_id), str(outcome.sequence_number))
                ledger.execute(
                    "INSERT INTO replays VALUES (?, ?, ?, ?)", (dead_letter_id, self._clock.now_ms(), *place)
                )
                results.append(Replayed(dead_letter_id, Outcome.SENT, ":".join(place)))
        return results

    @contextmanager
    def _view(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            create_views(connection, self._lakehouse, [LakeTable.DEAD_LETTERS])
            yield connection

    @contextmanager
    def _open_ledger(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._ledger, timeout=30)) as ledger, ledger:
            ledger.execute(_LEDGER)
            yield ledger

    def _replayed(self) -> dict[str, int]:
        if not self._ledger.exists():
            return {}
        with self._open_ledger() as ledger:
            return dict(ledger.execute("SELECT dead_letter_id, replayed_at_ms FROM replays"))


def _partition_keys(batch: Mapping[str, bytes], now_ms: int) -> dict[str, str]:
    """The category of the first event inside, as senders have it; for bytes that are still no event, the id."""
    events = decode(list(batch.values()), [now_ms] * len(batch)).events
    firsts: dict[int, int] = {}
    for record, category in zip(events["record"].to_pylist(), events["category_id"].to_pylist(), strict=True):
        firsts.setdefault(record, category)
    return {dead_letter_id: str(firsts.get(record, dead_letter_id)) for record, dead_letter_id in enumerate(batch)}


def _rows(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
