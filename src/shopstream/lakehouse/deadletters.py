"""Dead letters: list rejected bytes with their reasons, and replay each of them once.

A replay puts the bytes back into the stream, then records the id in a ledger beside the tables. A second replay of
the same id does nothing. A crash between the two steps sends the bytes twice; the engine drops the second events as
duplicates (same time and id). Bytes that fail again become a new dead letter with its own id.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import duckdb

from shopstream.clock import Clock
from shopstream.engine.tables import fetch_dicts
from shopstream.errors import PermanentError
from shopstream.events.codec import decode
from shopstream.events.schema import DEAD_LETTER_FIELDS
from shopstream.lakehouse.files import locked
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.tables import create_views
from shopstream.stream.ports import MAX_PUT_BYTES, MAX_PUT_RECORDS, NewRecord, StreamWriter


class ReplayStatus(StrEnum):
    """Result of replaying one dead letter."""

    SENT = "sent"
    SENT_BEFORE = "sent_before"
    REFUSED = "refused"


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
"""Bytes of a put reserved for a partition key."""

_HEAD = ", ".join(field.name for field in DEAD_LETTER_FIELDS if field.name != "payload")


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Replay of one dead letter; `detail` is the new place of the bytes in the stream, or the reason for a refusal."""

    dead_letter_id: str
    status: ReplayStatus
    detail: str


class DeadLetters:
    """The rejected bytes in the lakehouse.

    Args:
        lakehouse: holds them.
        folder: of the lakehouse, for the ledger of replays.
        clock: for the time of a replay.
    """

    def __init__(self, lakehouse: Lakehouse, folder: Path, clock: Clock) -> None:
        self._lakehouse = lakehouse
        self._ledger = folder / LEDGER_FILE
        self._lock = folder / "replays.lock"
        self._clock = clock

    def by_reason(self) -> list[dict[str, Any]]:
        """Reason, how many, first and last arrival; most frequent first."""
        with self._view() as view:
            return fetch_dicts(
                view.execute(
                    "SELECT reason, count(*) AS dead_letters, min(arrival_time) AS first_arrival, "
                    "max(arrival_time) AS last_arrival FROM dead_letters GROUP BY reason ORDER BY 2 DESC, 1"
                )
            )

    def newest(self, limit: int, reason: str | None = None) -> list[dict[str, Any]]:
        """The newest dead letters without payload, and when they were replayed (epoch milliseconds or None)."""
        with self._view() as view:
            rows = fetch_dicts(
                view.execute(
                    f"SELECT {_HEAD} FROM dead_letters WHERE $reason IS NULL OR reason = $reason "
                    "ORDER BY arrival_time DESC, shard_id, sequence_number DESC, place DESC LIMIT $limit",
                    {"reason": reason, "limit": limit},
                )
            )
        replayed = self._replayed()
        return [{**row, "replayed_at_ms": replayed.get(row["dead_letter_id"])} for row in rows]

    def get(self, dead_letter_id: str) -> dict[str, Any]:
        """One dead letter with its payload; a unique prefix of the id is enough.

        Raises:
            PermanentError: no dead letter, or several, have such an id.
        """
        with self._view() as view:
            rows = fetch_dicts(
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

    def replay(self, ids: Sequence[str], writer: StreamWriter, payload: bytes | None = None) -> list[ReplayResult]:
        """Put dead letters back into the stream, each once.

        Args:
            ids: which; unique prefixes are enough.
            writer: the stream.
            payload: corrected bytes, for a single id.

        Raises:
            PermanentError: an unknown id, or `payload` for several.
            BackpressureError: the stream is full; earlier records of this replay are in the ledger.
            RetryableError: another replay is running.
        """
        if payload is not None and len(ids) != 1:
            raise PermanentError(f"expected one id for corrected bytes, got {len(ids)}; replay them one by one")
        letters = {row["dead_letter_id"]: row for row in map(self.get, dict.fromkeys(ids))}
        bodies = ((id_, row["payload"] if payload is None else payload) for id_, row in letters.items())
        return self._send(bodies, writer)

    def replay_all(self, writer: StreamWriter, reason: str | None = None) -> list[ReplayResult]:
        """Put all dead letters (of one reason) that were not replayed yet back into the stream, oldest first.

        Raises:
            BackpressureError: the stream is full; earlier records of this replay are in the ledger.
            RetryableError: another replay is running.
        """
        with self._view() as view:
            cursor = view.execute(
                "SELECT dead_letter_id, payload FROM dead_letters WHERE $reason IS NULL OR reason = $reason "
                "ORDER BY arrival_time, shard_id, sequence_number, place",
                {"reason": reason},
            )
            return self._send(iter(cursor.fetchone, None), writer)

    def _send(self, bodies: Iterator[tuple[str, bytes]], writer: StreamWriter) -> list[ReplayResult]:
        with locked(self._lock, "another replay of dead letters is running; wait for it"):
            done = self._replayed()
            results: list[ReplayResult] = []
            batch: dict[str, bytes] = {}
            for dead_letter_id, payload in bodies:
                if dead_letter_id in done:
                    results.append(ReplayResult(dead_letter_id, ReplayStatus.SENT_BEFORE, "not sent again"))
                    continue
                size = sum(map(len, batch.values())) + len(payload) + _KEY_BYTES * (len(batch) + 1)
                if batch and (len(batch) == MAX_PUT_RECORDS or size > MAX_PUT_BYTES):
                    results += self._put(batch, writer)
                    batch = {}
                batch[dead_letter_id] = payload
            return results + (self._put(batch, writer) if batch else [])

    def _put(self, batch: Mapping[str, bytes], writer: StreamWriter) -> list[ReplayResult]:
        keys = _partition_keys(batch, self._clock.now_ms())
        records = [NewRecord(payload, keys[dead_letter_id]) for dead_letter_id, payload in batch.items()]
        results = []
        with self._open_ledger() as ledger:
            for dead_letter_id, outcome in zip(batch, writer.put(records), strict=True):
                if outcome.error_code is not None:
                    detail = f"{outcome.error_code}: {outcome.error_message}"
                    results.append(ReplayResult(dead_letter_id, ReplayStatus.REFUSED, detail))
                    continue
                place = (str(outcome.shard_id), str(outcome.sequence_number))
                ledger.execute(
                    "INSERT INTO replays VALUES (?, ?, ?, ?)", (dead_letter_id, self._clock.now_ms(), *place)
                )
                results.append(ReplayResult(dead_letter_id, ReplayStatus.SENT, ":".join(place)))
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
    """The category of the first event, as senders use it; the id for bytes that are still not an event."""
    events = decode(list(batch.values()), [now_ms] * len(batch)).events
    firsts: dict[int, int] = {}
    for record, category in zip(events["record"].to_pylist(), events["category_id"].to_pylist(), strict=True):
        firsts.setdefault(record, category)
    return {dead_letter_id: str(firsts.get(record, dead_letter_id)) for record, dead_letter_id in enumerate(batch)}
