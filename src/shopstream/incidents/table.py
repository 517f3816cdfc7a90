"""What the incident store needs of a key-value table, and the ledger in it that lets many write as one.

Every change is one entry of the ledger. Its number, the version, is the fence: an entry is written only over the
version that its writer has read, in one transaction with the items that it changes.

1. A change that fits into one transaction: `META` from version n to n + 1, `LOG` n + 1 with the keys, and the items.
2. A larger one: its items are laid down first (`STAGE`), then `META` moves to n + 1 and names the stage: from now on it
   has happened. Then the items are written, each transaction on the condition that `META` still names the stage, and
   `META` lets go of it. Whoever finds a stage named there finishes it before writing on its own: a writer that was
   killed leaves no half change, and one that was only slow can do no harm later.

Reads are strongly consistent: an index, which lags behind, is never asked for what was written lately.
"""

import json
import random
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from shopstream.clock import Clock
from shopstream.errors import RetryableError, StateError
from shopstream.incidents.item import Item, Key, Value, check_size, size_of

__all__ = [
    "ConflictError",
    "Entry",
    "Item",
    "Key",
    "Ledger",
    "Meta",
    "Operation",
    "Table",
    "Value",
    "chunks_of",
    "data_of",
    "key_of",
    "number_of",
    "text_of",
]

MAX_OPERATIONS: Final = 100
"""Of a transaction, says DynamoDB."""
_MAX_BYTES: Final = 3_000_000
"""Of a transaction; DynamoDB takes 4 MB."""
_CHUNK: Final = 350_000
"""Bytes of an item that holds a part of something; DynamoDB takes 400 KB."""
_KEPT: Final = timedelta(days=14)
"""Entries of the ledger live so long; a copy that is older reads all again."""
_BYTES: Final = "#bytes"
"""Stands for bytes in JSON; no attribute is called so."""
_META: Final = ("META", "META")
_SCHEMA: Final = 1
_ATTEMPTS: Final = 10
_WAIT: Final = timedelta(milliseconds=40)


class ConflictError(RetryableError):
    """Somebody else wrote first; nothing of this was written."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One part of a transaction.

    Args:
        item: to put; None deletes, or with `check` leaves as it is.
        expect: attribute → the value that it must have now; None: it must not be there.
    """

    key: Key
    item: Item | None = None
    expect: Mapping[str, Value | None] = field(default_factory=dict)
    check: bool = False


class Table(Protocol):
    """A table with `pk`, `sk`, one index over `gsi1pk` and `gsi1sk`, and a time to live in `expires_at`.

    All methods raise BackpressureError, RetryableError, ConfigurationError (permission, credentials) and StateError (no
    such table), as `shopstream.aws.clients.explained` says; those that write ItemTooLargeError before anything is sent.
    """

    def get(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """Any number of items, those that are there."""
        ...

    def query(
        self, pk: str, *, after: str = "", until: str = "", newest_first: bool = False, page: int | None = None
    ) -> Iterator[Item]:
        """Items of a partition, those with after < sk <= until.

        Args:
            pk: the partition.
            after: a bound; empty is none.
            until: likewise.
            newest_first: in falling order of `sk`.
            page: read so many at once, because the caller may stop early.
        """
        ...

    def indexed(self, pk: str) -> Iterator[Key]:
        """Keys that the index has under a `gsi1pk`; may lag behind."""
        ...

    def scan(self, kinds: Sequence[str]) -> Iterator[Item]:
        """All items whose attribute `item` is one of these."""
        ...

    def write(self, operations: Sequence[Operation]) -> None:
        """Write up to MAX_OPERATIONS in one transaction; a repetition of the same call by the client is harmless.

        Raises:
            ConflictError: a condition is not met, or another transaction is at the same items.
        """
        ...

    def put(self, items: Sequence[Item]) -> None:
        """Write any number without conditions, in no order."""
        ...


class Meta(NamedTuple):
    """The head of the ledger.

    Args:
        version: of the newest entry.
        table_id: drawn when the ledger was made; another table, or one made anew, has another.
        watermark_ms: up to which event time incidents are judged.
        stage: of a change whose items are not all written yet; empty otherwise.
        active: the version whose list of active keys is there, 0 for none; see `replica`.
    """

    version: int
    table_id: int
    watermark_ms: int
    stage: str = ""
    active: int = 0


class Entry(NamedTuple):
    """One change: the keys of what it wrote or deleted, or the stage that has them."""

    version: int
    keys: tuple[Key, ...]
    stage: str


class Ledger:
    """See the module. One object belongs to one thread."""

    def __init__(self, table: Table, clock: Clock) -> None:
        self._table = table
        self._clock = clock

    def read(self) -> Meta | None:
        """The head; None as long as nobody wrote.

        Raises:
            StateError: written by another version of shopstream.
        """
        item = self._table.get([_META]).get(_META)
        if item is None:
            return None
        if (schema := number_of(item, "schema")) != _SCHEMA:
            raise StateError(
                f"expected incidents of schema {_SCHEMA} in the table, got {schema}; use the shopstream that "
                "wrote them, or another table"
            )
        return Meta(
            version=number_of(item, "version"),
            table_id=number_of(item, "table_id"),
            watermark_ms=number_of(item, "watermark_ms"),
            stage=text_of(item, "stage"),
            active=number_of(item, "active"),
        )

    def open(self) -> Meta:
        """The head; made where there is none."""
        while (meta := self.read()) is None:
            first = Meta(0, random.getrandbits(62), 0)
            try:
                self._table.write([Operation(_META, _meta_item(first), {"version": None})])
            except ConflictError:
                continue  # another was faster: theirs counts
            return first
        return meta

    def entries(self, after: int, until: int) -> list[Entry] | None:
        """The changes after < version <= until, oldest first; None where some are not kept any more."""
        found = [
            Entry(int(text_of(item, "sk")), tuple(map(_split, _texts(item.get("keys", [])))), text_of(item, "stage"))
            for item in self._table.query("LOG", after=_number(after), until=_number(until))
        ]
        complete = [entry.version for entry in found] == list(range(after + 1, until + 1))
        return found if complete else None

    def staged(self, stage: str) -> dict[Key, Item | None]:
        """What a large change wrote; None for what it deleted.

        Raises:
            StateError: parts are missing.
        """
        parts = list(self._table.query(f"STAGE#{stage}"))
        if not parts or len(parts) != number_of(parts[0], "parts"):
            raise StateError("a change in the incident table is incomplete; restore the table to a point before it")
        changes: dict[Key, Item | None] = {}
        for part in parts:
            for pk, sk, item in json.loads(zlib.decompress(data_of(part)), object_hook=_read_bytes):
                changes[pk, sk] = item
        return changes

    def commit(self, over: Meta, changes: Mapping[Key, Item | None], logged: Sequence[Key], watermark_ms: int) -> Meta:
        """Write one change over the version that its writer has read; returns the new head.

        Args:
            over: the head that the writer has read.
            changes: items by key, None deletes; the attribute `version` is added.
            logged: which of the keys copies have to look at.
            watermark_ms: up to which event time incidents are judged now.

        Raises:
            ConflictError: another has written; nothing of this is.
            ItemTooLargeError: nothing is written: what is laid down must not stay unfinished for good.
            RetryableError: not known whether it is written; reading tells.
        """
        meta = over._replace(version=over.version + 1, watermark_ms=watermark_ms)
        stamped = {key: None if item is None else {**item, "version": meta.version} for key, item in changes.items()}
        for item in stamped.values():
            check_size(item)
        entry: dict[str, Value] = {
            "pk": "LOG",
            "sk": _number(meta.version),
            "item": "log",
            "written_ms": self._clock.now_ms(),
            "expires_at": self.expiry(_KEPT),
        }
        small = len(stamped) + 2 <= MAX_OPERATIONS and sum(map(size_of, stamped.values())) < _MAX_BYTES
        if small:
            entry["keys"] = [_joined(key) for key in logged]
            writes = [Operation(key, item) for key, item in stamped.items()]
        else:
            meta = meta._replace(stage=uuid4().hex)
            self._lay_down(meta.stage, stamped)
            entry["stage"] = meta.stage
            writes = []
        expected = {"version": over.version, "table_id": over.table_id, "stage": None}
        head = Operation(_META, _meta_item(meta), expected)
        self._table.write([head, Operation(("LOG", _number(meta.version)), entry), *writes])
        return meta if small else self._finish(meta, stamped)

    def finish(self, meta: Meta) -> Meta:
        """Write what another has only laid down."""
        return self._finish(meta, self.staged(meta.stage)) if meta.stage else meta

    def expiry(self, after: timedelta) -> int:
        """Epoch seconds of a moment from now, for `expires_at`."""
        return self._clock.now_ms() // 1_000 + round(after.total_seconds())

    def _lay_down(self, stage: str, changes: Mapping[Key, Item | None]) -> None:
        found = chunks_of([(*key, item) for key, item in changes.items()])
        expires_at = self.expiry(_KEPT)
        self._table.put(
            [
                {
                    "pk": f"STAGE#{stage}",
                    "sk": f"{place:06d}",
                    "item": "stage",
                    "parts": len(found),
                    "data": data,
                    "expires_at": expires_at,
                }
                for place, data in enumerate(found)
            ]
        )

    def _finish(self, meta: Meta, changes: Mapping[Key, Item | None]) -> Meta:
        named = {"stage": meta.stage}
        done = meta._replace(stage="")
        for batch in _batches(changes):
            if not self._guarded([Operation(_META, expect=named, check=True), *batch], meta):
                return done
        self._guarded([Operation(_META, _meta_item(done), named)], meta)
        return done

    def _guarded(self, operations: Sequence[Operation], meta: Meta) -> bool:
        """Write as long as the stage is named; False where somebody else has finished it."""
        for attempt in range(_ATTEMPTS):
            try:
                self._table.write(operations)
            except ConflictError:
                now = self.read()
                if now is None or now.stage != meta.stage:
                    return False
                self._clock.sleep(_WAIT * (attempt + random.random()))  # noqa: S311  spreads helpers
            else:
                return True
        raise RetryableError("another writer is at the same change of incidents; try again")


def text_of(item: Item, name: str) -> str:
    """A text of an item; empty where there is none."""
    value = item.get(name, "")
    return value if isinstance(value, str) else ""


def number_of(item: Item, name: str) -> int:
    """A number of an item; 0 where there is none."""
    value = item.get(name, 0)
    return value if isinstance(value, int) else 0


def data_of(item: Item) -> bytes:
    """The bytes of an item that holds a part of something."""
    value = item["data"]
    return value if isinstance(value, bytes) else b""


def key_of(item: Item) -> Key:
    """The key of an item."""
    return text_of(item, "pk"), text_of(item, "sk")


def chunks_of(rows: Sequence[object]) -> list[bytes]:
    """Compressed JSON lists, each small enough for an item."""
    data = zlib.compress(json.dumps(rows, default=_written_bytes).encode())
    if len(data) <= _CHUNK or len(rows) == 1:
        return [data]
    middle = len(rows) // 2
    return chunks_of(rows[:middle]) + chunks_of(rows[middle:])


def _written_bytes(value: object) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"expected a value of an item, got {type(value).__name__}")
    return {_BYTES: b64encode(value).decode()}


def _read_bytes(found: dict[str, Any]) -> Any:  # noqa: ANN401  an item, or bytes in it
    return b64decode(found[_BYTES]) if found.keys() == {_BYTES} else found


def _meta_item(meta: Meta) -> Item:
    kept = {name: value for name, value in meta._asdict().items() if value != "" or name != "stage"}
    return {"pk": _META[0], "sk": _META[1], "item": "meta", "schema": _SCHEMA, **kept}


def _batches(changes: Mapping[Key, Item | None]) -> Iterator[list[Operation]]:
    batch: list[Operation] = []
    size = 0
    for key, item in changes.items():
        more = size_of(item)
        if batch and (len(batch) == MAX_OPERATIONS - 1 or size + more > _MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(Operation(key, item))
        size += more
    if batch:
        yield batch


def _number(version: int) -> str:
    return f"{version:015d}"


def _joined(key: Key) -> str:
    return "\t".join(key)


def _split(text: str) -> Key:
    pk, _, sk = text.partition("\t")
    return pk, sk


def _texts(value: Value) -> list[str]:
    return value if isinstance(value, list) else []
