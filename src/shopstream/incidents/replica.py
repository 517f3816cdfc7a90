"""A SQLite file that follows the incidents in a table, and writes to them over the version that it has read.

A *complete* copy (the commands, the dashboard) holds all that is kept. A *partial* one (a function that has just been
started) holds what may still change or has to be told: everything chained to what is open, was lately, or waits to be
told. Its keys are in a list that a writer leaves now and then (`ACTIVE`); what changed after the list is in the ledger.
Older episodes of a rule and key are fetched when a detection of that rule and key comes.

A transaction of a writer is committed to the table before it is committed to the file: a refusal undoes it, and after a
crash between the two the file is behind, as any other copy, and follows.
"""

import json
import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

from shopstream.clock import Clock
from shopstream.errors import RetryableError, StateError
from shopstream.incidents import single_table as items
from shopstream.incidents.database import Connection, explained, open_writer, transaction
from shopstream.incidents.recording import open_recorded, recorded, write_rows
from shopstream.incidents.retention import forget_old
from shopstream.incidents.table import (
    ConflictError,
    Entry,
    Item,
    Key,
    Ledger,
    Meta,
    Table,
    chunks_of,
    data_of,
    key_of,
    number_of,
    text_of,
)

__all__ = ["Replica"]

_T = TypeVar("_T")

_ATTEMPTS: Final = 20
_ROUNDS: Final = 3
"""So often a copy follows what changes while it follows."""
_WAIT: Final = timedelta(milliseconds=30)
_LIST_EVERY: Final = 100
"""So many changes a new list of what is active is left."""
_MARGIN_MS: Final = 3_600_000
"""Of what is active, beyond what the settings of now ask for: those of a later start may ask for more."""
_SCOPES: Final = 100_000
"""So many scopes are known to be fetched; then it is forgotten which, to bound memory."""
_PAGE: Final = 50
_VERSION, _TABLE, _COMPLETE = "replica_version", "replica_table", "replica_complete"

_ACTIVE: Final = """
WITH active AS (
    SELECT scope, ordinal FROM incidents WHERE chain IN (
        SELECT chain FROM incidents WHERE closed = 0 OR closes_ms > ?1
        UNION SELECT i.chain FROM notifications AS n JOIN incidents AS i
            ON i.scope = substr(n.incident_id, 1, 16) AND i.ordinal = CAST(substr(n.incident_id, 18) AS INTEGER)
        WHERE n.state = 'pending'))
SELECT 'episode', scope, ordinal FROM active
UNION ALL SELECT 'head', h.scope, h.ordinal FROM heads AS h JOIN active USING (scope, ordinal)
UNION ALL SELECT 'notification', n.reference, n.target FROM active
    JOIN notifications AS n ON n.incident_id = active.scope || '-' || active.ordinal
"""


class Replica:
    """See the module. One object belongs to one thread.

    Args:
        table: where the truth is.
        path: the working copy; made where it is missing.
        complete: with all that is kept, not only what may still change.
        retention: closed incidents are forgotten so long after.
        slack: so long after its end something may still be joined.
        clock: processing time.

    Raises:
        StateError: the file holds incidents of its own.
    """

    def __init__(
        self, table: Table, path: Path, clock: Clock, *, complete: bool, retention: timedelta, slack: timedelta
    ) -> None:
        self.path = path
        self._table = table
        self._complete = complete
        self._retention = retention
        self._slack_ms = slack // timedelta(milliseconds=1) + _MARGIN_MS
        self._clock = clock
        self._ledger = Ledger(table, clock)
        self._connection = open_writer(path)
        self._meta: Meta | None = None
        self._scopes: dict[str, int] = {}
        foreign = "SELECT EXISTS (SELECT 1 FROM incidents) AND NOT EXISTS (SELECT 1 FROM marks WHERE name = ?)"
        with explained(path):
            own = self._connection.execute(foreign, (_VERSION,)).fetchone()[0]
        if own:
            self._connection.close()
            raise StateError(
                f"expected a copy of the table's incidents at {path}, got a store with incidents of its own; move the "
                "file away, or set SHOPSTREAM_PROFILE=embedded"
            )

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def connect(self, path: Path) -> Connection:
        """A connection whose transactions are committed to the table, too."""
        connection = open_recorded(path)
        connection.before_commit = lambda: self._push(connection)
        return connection

    def follow(self, *, complete: bool = False, writes: bool = False) -> None:
        """Bring the file to where the table is, or was a moment ago if it changes all the time.

        Args:
            complete: from now on with all that is kept.
            writes: whether the ledger may be made, and finished where another writer was killed.
        """
        self._complete = self._complete or complete
        for _ in range(_ROUNDS):
            meta = self._ledger.open() if writes else self._ledger.read()
            if meta is None:
                return
            if writes and meta.stage:
                meta = self._ledger.finish(meta)
            marks = self._marks()
            if marks.get(_TABLE) != meta.table_id or marks[_VERSION] > meta.version:
                self._begin_anew(meta, complete=self._complete)
            elif self._complete and not marks[_COMPLETE]:
                self._begin_anew(meta, complete=True)
            elif marks[_VERSION] < meta.version:
                self._catch_up(meta, marks)
            else:
                self._meta = meta
                return
            self._meta = meta

    def commit(self, action: Callable[[], _T], reload: Callable[[], None]) -> _T:
        """Do what writes over a connection of `connect`; where another has written meanwhile, follow and do it again.

        Args:
            action: may be done again, as what it did is undone.
            reload: called after rows have changed beneath.

        Raises:
            RetryableError: others were faster every time.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except ConflictError:
                self._clock.sleep(_WAIT * (attempt * random.random()))  # noqa: S311  spreads writers
                self.follow(writes=True)
                reload()
        raise RetryableError("other writers of incidents were faster every time; try again")

    def fetch(self, scopes: Mapping[str, int]) -> None:
        """Have the episodes that detections may touch.

        Args:
            scopes: scope → the earliest moment that counts, epoch ms.
        """
        if self._marks().get(_COMPLETE):
            return
        missing = {scope: from_ms for scope, from_ms in scopes.items() if self._scopes.get(scope, 1 << 62) > from_ms}
        if not missing:
            return
        lasts = self._table.get(items.last_key(scope) for scope in missing)
        found: dict[Key, Item | None] = {}
        for key, last in lasts.items():
            found |= self._episodes(scope := text_of(last, "scope"), missing[scope])
            found[key] = last
        found |= self._chained(found)
        with transaction(self._connection, self.path):
            write_rows(self._connection, found, known=False)
        if len(self._scopes) > _SCOPES:
            self._scopes.clear()
        self._scopes |= missing

    def _episodes(self, scope: str, from_ms: int) -> dict[Key, Item | None]:
        """Those that reach there, with heads and notifications; newest first, until a whole page does not."""
        found: dict[Key, Item | None] = {}
        reach: set[str] = set()
        older = 0
        for item in self._table.query(items.scope_pk(scope), until=":", newest_first=True, page=_PAGE):
            key = key_of(item)
            found[key] = item
            if item["item"] == "episode":
                late = number_of(item, "closes_ms") >= from_ms
                older = 0 if late else older + 1
                reach |= {key[1][:9]} if late else set()
            if older > _PAGE:
                break
        return {key: item for key, item in found.items() if key[1][:9] in reach}

    def _chained(self, found: Mapping[Key, Item | None]) -> dict[Key, Item | None]:
        """What else may be one incident with episodes that are not here yet; settled long ago, so the index has it."""
        if not any(item and item["item"] == "episode" for item in found.values()):
            return {}
        with explained(self.path):
            rows = self._connection.execute("SELECT scope, ordinal FROM incidents").fetchall()
        here = {f"{scope}-{ordinal}" for scope, ordinal in rows}
        chains = {
            text_of(item, "chain")
            for item in found.values()
            if item and item["item"] == "episode" and item["incident"] not in here
        }
        keys = {key for chain in chains for key in self._table.indexed(items.chain_pk(chain))} - found.keys()
        more: dict[Key, Item | None] = dict(self._table.get(keys))
        for item in list(more.values()):
            if item and (item["told"] or item["role"] == "head"):
                pk, sk = key_of(item)
                for part in self._table.query(pk, after=sk[:9], until=f"{sk[:9]}~"):
                    more[key_of(part)] = part
        return more

    def _push(self, connection: Connection) -> None:
        """Commit to the table what a transaction is about to commit to the file."""
        found = recorded(connection, self._clock.now_ms() // 1_000, self._retention)
        if not found.changes:
            return
        marks = dict(connection.execute("SELECT name, value FROM marks").fetchall())
        if self._meta is None or marks[_VERSION] != self._meta.version:
            raise ConflictError("another process has brought this copy further")
        watermark_ms = marks.get("watermark_ms", self._meta.watermark_ms)
        meta = self._ledger.commit(self._meta, found.changes, found.logged, watermark_ms)
        if meta.version - meta.active >= _LIST_EVERY:
            self._leave_list(connection, meta.version, watermark_ms)
            meta = meta._replace(active=meta.version)  # written with the next change
        self._meta = meta
        connection.execute("UPDATE marks SET value = ? WHERE name = ?", (meta.version, _VERSION))

    def _leave_list(self, connection: Connection, version: int, watermark_ms: int) -> None:
        keys: dict[str, Callable[[Any, Any], Key]] = {
            "episode": items.episode_key,
            "head": items.head_key,
            "notification": items.notification_key,
        }
        # A watermark that is set far ahead to close all must not settle all.
        newest_ms = connection.execute("SELECT max(closes_ms) FROM incidents").fetchone()[0] or 0
        rows = connection.execute(_ACTIVE, (min(watermark_ms, newest_ms) - self._slack_ms,)).fetchall()
        parts = chunks_of([keys[kind](first, second) for kind, first, second in rows])
        self._table.put(
            [
                {
                    "pk": f"ACTIVE#{version:015d}",
                    "sk": f"{place:06d}",
                    "item": "active",
                    "parts": len(parts),
                    "data": data,
                    "expires_at": self._ledger.expiry(timedelta(days=14)),
                }
                for place, data in enumerate(parts)
            ]
        )

    def _list(self, version: int) -> list[Key] | None:
        """Keys of what was active at a version; None where the list is gone."""
        if not version:
            return []
        parts = list(self._table.query(f"ACTIVE#{version:015d}"))
        if not parts or len(parts) != number_of(parts[0], "parts"):
            return None
        return [(pk, sk) for part in parts for pk, sk in json.loads(zlib.decompress(data_of(part)))]

    def _begin_anew(self, meta: Meta, *, complete: bool) -> None:
        """Read what the copy is to hold; what changes meanwhile is in the ledger, and caught up with next."""
        active = None if complete else self._list(meta.active)
        entries = None if active is None else self._ledger.entries(meta.active, meta.version)
        found: Iterable[tuple[Key, Item | None]]
        if active is None or entries is None:
            complete = True
            scanned = self._table.scan(items.ROW_KINDS)
            unwritten = self._ledger.staged(meta.stage) if meta.stage else {}
            found = chain(((key_of(item), item) for item in scanned), unwritten.items())
        else:
            found = self._changes(active, entries).items()
        self._scopes.clear()
        with transaction(self._connection, self.path):
            for table in ("incidents", "heads", "notifications", "ordinals", "marks"):
                self._connection.execute(f"DELETE FROM {table}")
            write_rows(self._connection, dict(self._living(found)))
            self._mark({_TABLE: meta.table_id, _COMPLETE: int(complete)}, meta)

    def _catch_up(self, meta: Meta, marks: Mapping[str, int]) -> None:
        entries = self._ledger.entries(marks[_VERSION], meta.version)
        if entries is None:
            self._begin_anew(meta, complete=bool(marks[_COMPLETE]))
            return
        changes = self._changes((), entries)
        with transaction(self._connection, self.path):
            if self._marks() != marks:
                return  # another process was faster; the next round sees
            write_rows(self._connection, dict(self._living(changes.items())))
            if marks[_COMPLETE]:  # what a writer forgets is told; what expires in the table is not
                forget_old(self._connection, meta.watermark_ms, self._retention)
            self._mark({}, meta)

    def _changes(self, keys: Iterable[Key], entries: Iterable[Entry]) -> dict[Key, Item | None]:
        """Items of keys and of changes; of each the newest counts, and what a stage has need not be read again."""
        changes: dict[Key, Item | None] = {}
        unread = set(keys)
        for entry in entries:
            staged = self._ledger.staged(entry.stage) if entry.stage else {}
            changes |= staged
            unread = (unread - staged.keys()) | set(entry.keys)
        return changes | dict.fromkeys(unread) | self._table.get(unread)

    def _living(self, found: Iterable[tuple[Key, Item | None]]) -> Iterable[tuple[Key, Item | None]]:
        """The table takes its time to delete what has expired."""
        now_s = self._clock.now_ms() // 1_000
        for key, item in found:
            expired = item is not None and "expires_at" in item and number_of(item, "expires_at") <= now_s
            yield key, None if expired else item

    def _mark(self, marks: Mapping[str, int], meta: Meta) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO marks VALUES (?, ?)",
            [*marks.items(), (_VERSION, meta.version), ("watermark_ms", meta.watermark_ms)],
        )

    def _marks(self) -> dict[str, int]:
        with explained(self.path):
            return dict(self._connection.execute("SELECT name, value FROM marks").fetchall())
