"""Incidents in one DynamoDB table: the AWS adapter of `ports.IncidentStore`. `docs/dynamodb.md` has the table's design.

An incident's row is one item, found by the beginning of its id; the index finds the parts of an incident. What people
did lies in the same item, which the engine only updates. Each head has a small item more, by which the index lists
incidents in order of their newest event. The index lags behind by moments: readers take keys from it, and then the
items themselves; the engine never asks it.

`put` writes in this order, and writing the same again is harmless: the ids (so that a restart finds them), the rows,
the heads, the ordinals, the notifications.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Any, Final, Unpack
from uuid import uuid4

from boto3.dynamodb.conditions import Attr, ConditionBase, Key

from shopstream.aws.clients import dynamodb_client, explained, write_if
from shopstream.clock import Clock
from shopstream.detection.detection import SEVERITIES
from shopstream.errors import BackpressureError, PermanentError, StateError
from shopstream.incidents.explanation import verdict_of
from shopstream.incidents.incident import Actor, Incident, State, TriageStatus, state_of
from shopstream.incidents.ports import (
    BEFORE_ALL,
    UNCOMMITTED,
    DeliveryState,
    IncidentFilter,
    IncidentUpdate,
    LastOrdinal,
    NewNotification,
    Notification,
    RowVersion,
    notification_of,
)
from shopstream.incidents.record import (
    EpisodeRecord,
    IncidentRow,
    Triage,
    document_of,
    incident_of,
    record_of,
    summary_of,
)
from shopstream.incidents.settings import DynamoSettings

MAX_BYTES: Final = 400 << 10
"""Of an item, names and values, says DynamoDB."""
_LARGE: Final = 50_000
"""Characters of a text from which on it is compressed."""
_FORMAT: Final = 1
_PROGRESS: Final = {"pk": "PROGRESS", "sk": "PROGRESS"}
_WRITES_KEPT: Final = timedelta(days=30)
_ORDINALS_KEPT: Final = 3
"""Ids are not given again for so many retentions."""
_LONGEST_KEY: Final = 1_000
"""Bytes of an actor's value in a key; DynamoDB takes 2,048 in all."""
_INDEX: Final = "gsi1"
_THREADS: Final = 8
_SEGMENTS: Final = 4
_GET, _WRITE, _IDS = 100, 25, 5_000
_TRIES: Final = 8
_CLAIM: Final = timedelta(minutes=2)
"""A sender that took a notification has so long to send it."""
_WAIT: Final = timedelta(milliseconds=50)
_PEOPLES: Final = ("status", "status_ms", "owner", "comment")

_Item = dict[str, Any]
_ItemKey = dict[str, str]


class ItemTooLargeError(PermanentError):
    """What an item is to hold does not fit into one; nothing was written."""


class DynamoIncidentStore:
    """See `ports.IncidentStore`.

    Args:
        dynamo: names the table.
        retention: how long what is over is kept, by the clock; DynamoDB removes it then.
        clock: for the moments of notifications and of what people do, for expiry, and to wait.
    """

    def __init__(self, dynamo: DynamoSettings, retention: timedelta, clock: Clock) -> None:
        self._name = dynamo.table
        self._retention = retention
        self._clock = clock
        self._client = dynamodb_client()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dynamodb")

    def put(self, update: IncidentUpdate) -> None:
        """See `ports.IncidentStore.put`.

        Raises:
            ItemTooLargeError: nothing is written.
        """
        rows = [(row, self._row(row, update.generation)) for row in update.rows]
        ids = [*(row.record.id for row, _ in rows), *update.absorbed]
        for first in range(0, len(ids), _IDS):
            key = {"pk": "WRITES", "sk": f"{update.generation:020d}#{uuid4().hex}"}
            item = {**key, "ids": ids[first : first + _IDS], "expires_at": self._expiry(_WRITES_KEPT)}
            self._call("put_item", "to write to", Item=item)
        statuses = list(self._pool.map(lambda one: self._put_row(one[0], one[1], update.generation), rows))
        heads: list[_Item] = []
        for (row, _), status in zip(rows, statuses, strict=True):
            key = _key(row.record.id, "HEAD")
            heads.append({"PutRequest": {"Item": self._head(row, status)}} if row.summary else _deletion(key))
        for absorbed, into in update.absorbed.items():
            heads += self._absorb(absorbed, into, update.generation)
        heads += self._verdicts([(row.record, status) for (row, _), status in zip(rows, statuses, strict=True)])
        heads += [
            {"PutRequest": {"Item": {**_last_key(scope), **last._asdict(), "expires_at": self._expiry(_ORDINALS_KEPT)}}}
            for scope, last in update.ordinals.items()
        ]
        self._write_all(heads)
        list(self._pool.map(self._enqueue, update.notifications))
        self._call("put_item", "to write to", Item={**_PROGRESS, "format": _FORMAT, "as_of_ms": update.as_of_ms})

    def _row(self, row: IncidentRow, generation: int) -> _Item:
        """What the engine knows of a row, as attributes; None removes one."""
        record, summary = row
        episode, actor = record.episode, record.actor
        item: _Item = {
            "document": _packed(json.dumps(document_of(record))),
            "summary": json.dumps(summary._asdict()) if summary else None,
            "root": record.root,
            "absorbed": None,
            "generation": generation,
            "closes_ms": episode.closes_ms,
            "closed": record.closed,
            "last_event_ms": episode.last_event_ms,
            "verdict": episode.verdict or None,
            "actor_kind": actor.kind if actor else None,
            "actor": actor.value if actor else None,
            "gsi1pk": f"PARTS#{record.root}",
            "gsi1sk": record.id,
            "expires_at": self._expiry() if record.closed else None,
        }
        size = sum(
            len(name) + len(value if isinstance(value, bytes) else str(value).encode()) for name, value in item.items()
        )
        if size > MAX_BYTES:
            raise ItemTooLargeError(
                f"expected an item of at most {MAX_BYTES} bytes, that of incident {record.id} has {size}; let its rule "
                "have shorter keys or less evidence"
            )
        return item

    def _put_row(self, row: IncidentRow, item: _Item, generation: int) -> str:
        """Update what the engine knows; returns the status that people gave it."""
        condition = Attr("generation").not_exists() | Attr("generation").lt(generation + UNCOMMITTED)
        found = self._update(_key(row.record.id), item, condition=condition, returned="ALL_OLD")
        if found is None:
            raise StateError(
                f"expected no row of a later checkpoint than {generation} in table {self._name}; another process "
                "writes to it, stop one of them"
            )
        if "absorbed" in found and found["last_event_ms"] < row.record.episode.first_event_ms:
            # The id of an episode that was absorbed is given again: people are notified of the later one, too.
            for sent in list(self._query(Key("pk").eq("OUTBOX") & Key("sk").begins_with(f"{row.record.id}:"))):
                reference = f"{sent['reference']}:{found['last_event_ms']}"
                key = _outbox_key(reference, sent["target"])
                other = {**sent, **key, "reference": reference, "incident_id": found["root"]}
                self._write_all([{"PutRequest": {"Item": other}}, _deletion(_key_of(sent))])
        return str(found.get("status", TriageStatus.NONE))

    def _head(self, row: IncidentRow, status: str) -> _Item:
        summary = row.summary
        assert summary is not None  # noqa: S101  for the type checker: only heads come here
        return {
            **_key(summary.id, "HEAD"),
            "gsi1pk": f"HEADS#{'OVER' if summary.closed else 'ONGOING'}",
            "gsi1sk": f"{summary.last_event_ms:016d}#{summary.id}",
            "closed": summary.closed,
            "severity": str(SEVERITIES[summary.severity]),
            "rules": list(summary.rules),
            "status": status,
            **({"expires_at": self._expiry()} if summary.closed else {}),
        }

    def _verdicts(self, records: Iterable[tuple[EpisodeRecord, str]]) -> Sequence[_Item]:
        """What episodes say of their actors, one item each, so that another program needs one read for an actor."""
        found = [(record, status) for record, status in records if record.actor and record.episode.verdict]
        roots = self.statuses({record.root for record, _ in found}) if found else {}
        requests = []
        for record, status in found:
            parent = TriageStatus.NONE if record.root == record.id else roots.get(record.root, TriageStatus.NONE)
            row = IncidentRow(record)
            verdict = verdict_of(incident_of(row, Triage(TriageStatus(status)), parent_status=parent))
            times = {name: value.isoformat() for name, value in verdict.items() if isinstance(value, datetime)}
            expiry = {"expires_at": self._expiry()} if record.closed else {}
            item = {**_verdict_key(record), **verdict, **times, "until_ms": record.episode.last_event_ms + 1, **expiry}
            requests.append({"PutRequest": {"Item": item}})
        return requests

    def _absorb(self, absorbed: str, into: str, generation: int) -> Sequence[_Item]:
        """Returns what else has to be deleted."""
        items = self._items([absorbed, into])
        if absorbed not in items:
            return ()
        said = {name: items[absorbed][name] for name in _PEOPLES if name in items[absorbed]}
        if said and items.get(into, {}).get("status", TriageStatus.NONE) == TriageStatus.NONE:
            self._update(_key(into), said)
            self._update(_key(into, "HEAD"), {"status": said["status"]}, condition=Attr("pk").exists())
        gone = dict.fromkeys((*_PEOPLES, "summary", "verdict", "context"))
        self._update(
            _key(absorbed),
            {"root": into, "absorbed": True, "generation": generation, "gsi1pk": f"ABSORBED#{into}", **gone},
        )
        return _deletions(items[absorbed])

    def _enqueue(self, one: NewNotification) -> None:
        now_ms = self._clock.now_ms()
        item = {
            **_outbox_key(one.reference, one.target),
            **one._asdict(),
            "severity": str(one.severity),
            "kind": str(one.kind),
            "reference": one.reference,
            "state": str(DeliveryState.PENDING),
            "attempts": 0,
            "created_ms": now_ms,
            **_due(one.target, now_ms),
        }
        new = {"TableName": self._name, "Item": item, "ConditionExpression": Attr("pk").not_exists()}
        write_if(self._client.put_item, self._action("to write to", "put_item"), **new)

    def get(self, id_or_prefix: str) -> Incident:
        """See `ports.IncidentStore.get`."""
        scope, _, ordinal = id_or_prefix.partition("-")
        found = [
            item
            for first in ([scope[:2]] if len(scope) > 1 else [scope + digit for digit in "0123456789abcdef" if scope])
            for item in self._query(Key("pk").eq(f"INCIDENT#{first}") & Key("sk").begins_with(scope))
            if ordinal in {"", item["sk"].partition("-")[2]}
        ]
        found = [item for item in found if "absorbed" not in item] or found
        if not found:
            raise StateError(f"no incident has the id {id_or_prefix!r}; see `shopstream incidents list`")
        if len(found) > 1:
            raise StateError(
                f"several incidents fit {id_or_prefix!r}; write more of the id, see `shopstream incidents list`"
            )
        return self.get(found[0]["root"]) if "absorbed" in found[0] else self._incidents(found)[0]

    def list(self, *, limit: int | None = None, **only: Unpack[IncidentFilter]) -> list[Incident]:
        """See `ports.IncidentStore.list`."""
        wanted, named = set(only.get("states", ())), set(only.get("rules", ()))
        grave = set(map(str, only.get("severities", ())))
        heads = merge(*map(self._heads, ("ONGOING", "OVER")), key=lambda head: head["gsi1sk"], reverse=True)
        chosen = (
            head["sk"]
            for head in heads
            if (not wanted or state_of(TriageStatus(head["status"]), closed=head["closed"]) in wanted)
            and (not grave or head["severity"] in grave)
            and (not named or named.intersection(head["rules"]))
        )
        items = self._items(list(islice(chosen, limit)))
        incidents = self._incidents([item for item in items.values() if item.get("summary")])
        return sorted(incidents, key=lambda one: (-one.last_event_time.timestamp(), one.id))

    def parts(self, incident_id: str) -> Sequence[Incident]:
        """See `ports.IncidentStore.parts`."""
        items = self._items(self._part_ids(incident_id))
        parts = [_incident(item, parent=items.get(incident_id), whole=False) for item in items.values()]
        return sorted(parts, key=lambda one: (one.parent is not None, one.detected_at_event_time, one.id))

    def actors(self, since_ms: int = BEFORE_ALL) -> Sequence[Incident]:
        """See `ports.IncidentStore.actors`."""
        condition = Attr("verdict").exists() & Attr("actor").exists() & Attr("last_event_ms").gte(since_ms)

        def segment(number: int) -> list[_Item]:
            scan = {"FilterExpression": condition, "TotalSegments": _SEGMENTS, "Segment": number}
            return [item for item in self._pages("scan", ConsistentRead=True, **scan) if self._is_kept(item)]

        items = [item for found in self._pool.map(segment, range(_SEGMENTS)) for item in found]
        roots = self._items({item["root"] for item in items})
        found = [_incident(item, parent=roots.get(item["root"]), whole=False) for item in items]
        return sorted(found, key=lambda one: (one.first_event_time, one.actors, one.rule))

    def count(self) -> dict[State, int]:
        """See `ports.IncidentStore.count`."""
        counts = dict.fromkeys(State, 0)
        for group in ("ONGOING", "OVER"):
            for head in self._heads(group):
                counts[state_of(TriageStatus(head["status"]), closed=head["closed"])] += 1
        return counts

    def as_of_ms(self) -> int | None:
        """See `ports.IncidentStore.as_of_ms`."""
        found = self._call("get_item", "to read from", Key=_PROGRESS, ConsistentRead=True).get("Item")
        if found and found["format"] != _FORMAT:
            raise StateError(
                f"expected incidents of format {_FORMAT} in table {self._name}, got {found['format']}; use the "
                "shopstream that wrote them, or another table"
            )
        return int(found["as_of_ms"]) if found else None

    def set_status(
        self, id_or_prefix: str, status: TriageStatus, *, comment: str | None = None, owner: str | None = None
    ) -> Incident:
        """See `ports.IncidentStore.set_status`."""
        found = self.get(id_or_prefix)
        said: _Item = {
            "status": str(status),
            "status_ms": None if status is TriageStatus.NONE else self._clock.now_ms(),
            **({"comment": comment} if comment is not None else {}),
            **({"owner": owner} if owner is not None else {}),
        }
        ids = {found.id} if found.parent else {found.id, *self._part_ids(found.id)}
        exists = Attr("pk").exists()
        list(self._pool.map(lambda one: self._update(_key(one), said, condition=exists), ids))
        self._update(_key(found.id, "HEAD"), {"status": str(status)}, condition=exists)
        records = [record_of(_unpacked(item["document"])) for item in self._items(ids).values()]
        self._write_all(self._verdicts([(record, str(status)) for record in records]))
        return self.get(found.id)

    def set_context(self, incident_id: str, context: Mapping[str, object]) -> None:
        """See `ports.IncidentStore.set_context`."""
        packed = {"context": _packed(json.dumps(context))}
        self._update(_key(incident_id), packed, condition=Attr("pk").exists())

    def last_ordinals(self, scopes: Iterable[str]) -> dict[str, LastOrdinal]:
        """See `ports.IncidentStore.last_ordinals`."""
        found = self._get([_last_key(scope) for scope in scopes])
        return {
            item["pk"].partition("#")[2]: LastOrdinal(int(item["ordinal"]), int(item["last_event_ms"]))
            for item in found
        }

    def statuses(self, ids: Iterable[str]) -> dict[str, TriageStatus]:
        """See `ports.IncidentStore.statuses`."""
        return {one: TriageStatus(item.get("status", "none")) for one, item in self._items(ids).items()}

    def written_after(self, generation: int) -> Sequence[RowVersion]:
        """See `ports.IncidentStore.written_after`."""
        self.as_of_ms()  # of this format
        logged = self._query(Key("pk").eq("WRITES") & Key("sk").gt(f"{generation:020d}~"))
        items = self._items({one for entry in logged for one in entry["ids"]})
        return [
            RowVersion(one, int(item["generation"]), int(item["closes_ms"]))
            for one, item in items.items()
            if item["generation"] > generation
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """See `ports.IncidentStore.remove`."""
        gone = list(ids)
        waiting = [
            item
            for one in gone
            for item in self._query(Key("pk").eq("OUTBOX") & Key("sk").begins_with(f"{one}:"))
            if item["state"] == DeliveryState.PENDING
        ]
        items = self._items(gone).values()
        self._write_all(
            [
                *(_deletion(_key_of(item)) for item in (*items, *waiting)),
                *(request for item in items for request in _deletions(item)),
            ]
        )

    def forget(self, before_ms: int, ordinals_before_ms: int) -> None:  # noqa: ARG002  DynamoDB removes them
        """See `ports.IncidentStore.forget`."""
        for head in self._heads("OVER", Key("gsi1sk").lt(f"{max(before_ms, 0):016d}")):
            items = self._items(self._part_ids(head["sk"]))
            if all(item["closed"] and item["closes_ms"] < before_ms for item in items.values()):
                self._write_all(
                    [
                        *([] if head["sk"] in items else [_deletion(_key_of(head))]),
                        *(_deletion(_key_of(item)) for item in items.values()),
                        *(request for item in items.values() for request in _deletions(item)),
                    ]
                )

    def pending(self, target: str, now_ms: int) -> Sequence[Notification]:
        """See `ports.IncidentStore.pending`."""
        due = Key("gsi1pk").eq(f"DUE#{target}") & Key("gsi1sk").lt(f"{now_ms + 1:016d}")
        found = self._get([_key_of(item) for item in self._query(due, index=True)])
        later = _due(target, now_ms + _CLAIM // timedelta(milliseconds=1))
        waiting = [
            item
            for item in found
            if item["state"] == DeliveryState.PENDING
            and item["due_ms"] <= now_ms
            and self._update(_key_of(item), later, condition=Attr("due_ms").eq(item["due_ms"])) is not None
        ]
        waiting.sort(key=lambda item: (item["created_ms"], item["reference"]))
        return list(map(notification_of, waiting))

    def mark(
        self, references: Sequence[str], target: str, state: DeliveryState, at_ms: int, error: str | None = None
    ) -> None:
        """See `ports.IncidentStore.mark`."""
        over = {"gsi1pk": None, "gsi1sk": None, "finished_ms": at_ms, "expires_at": self._expiry()}
        change = _due(target, at_ms) if state is DeliveryState.PENDING else over
        said = {"state": str(state), "error": error, **change}
        list(
            self._pool.map(
                lambda reference: self._update(_outbox_key(reference, target), said, add={"attempts": 1}), references
            )
        )

    def retry_failed(self, now_ms: int) -> int:
        """See `ports.IncidentStore.retry_failed`."""
        failed = [item for item in self._outbox() if item["state"] == DeliveryState.FAILED]
        for item in failed:
            again = {"state": str(DeliveryState.PENDING), "attempts": 0, "finished_ms": None, "expires_at": None}
            self._update(_key_of(item), again | _due(item["target"], now_ms))
        return len(failed)

    def notifications(self, *, incident_id: str | None = None, limit: int | None = None) -> Sequence[Notification]:
        """See `ports.IncidentStore.notifications`."""
        ids = None if incident_id is None else {incident_id, *self._part_ids(incident_id, absorbed=True)}
        found = [item for item in self._outbox() if ids is None or item["incident_id"] in ids]
        found.sort(key=lambda item: (-item["created_ms"], item["reference"], item["target"]))
        return list(map(notification_of, found[:limit]))

    def close(self) -> None:
        """See `ports.IncidentStore.close`."""
        self._pool.shutdown()

    def _outbox(self) -> Iterator[_Item]:
        return self._query(Key("pk").eq("OUTBOX"))

    def _heads(self, group: str, condition: ConditionBase | None = None) -> Iterator[_Item]:
        """The small items of heads, those with the newest events first."""
        key = Key("gsi1pk").eq(f"HEADS#{group}")
        return self._query(key & condition if condition else key, index=True, newest_first=True)

    def _part_ids(self, root: str, *, absorbed: bool = False) -> Sequence[str]:
        kinds = ("PARTS", "ABSORBED") if absorbed else ("PARTS",)
        return [
            item["gsi1sk"] for kind in kinds for item in self._query(Key("gsi1pk").eq(f"{kind}#{root}"), index=True)
        ]

    def _incidents(self, items: Sequence[_Item]) -> Sequence[Incident]:
        def read(item: _Item) -> Incident:
            actors: set[Actor] = set()
            if item.get("summary") and json.loads(item["summary"])["episodes"] > 1:
                parts = self._query(Key("gsi1pk").eq(f"PARTS#{item['root']}"), index=True)
                actors = {Actor(part["actor_kind"], part["actor"]) for part in parts if "actor" in part}
            return _incident(item, sorted(actors), roots.get(item["root"]))

        roots = self._items({item["root"] for item in items if item["root"] != item["sk"]})
        return list(self._pool.map(read, items))

    def _items(self, ids: Iterable[str]) -> dict[str, _Item]:
        """Id → item, those that are there."""
        return {item["sk"]: item for item in self._get([_key(one) for one in sorted(set(ids))])}

    def _get(self, keys: Sequence[_ItemKey]) -> Sequence[_Item]:
        found: list[_Item] = []
        for first in range(0, len(keys), _GET):
            wanted = {self._name: {"Keys": keys[first : first + _GET], "ConsistentRead": True}}

            def read(request: dict[str, Any]) -> dict[str, Any]:
                answer = self._call("batch_get_item", "to read from", named=False, RequestItems=request)
                found.extend(answer["Responses"].get(self._name, ()))
                return dict(answer.get("UnprocessedKeys", {}))

            self._until_done(read, wanted, "to read from")
        return [item for item in found if self._is_kept(item)]

    def _write_all(self, requests: Sequence[_Item]) -> None:
        """Puts and deletions, in no order."""

        def write(first: int) -> None:
            part = {self._name: requests[first : first + _WRITE]}
            self._until_done(
                lambda request: dict(
                    self._call("batch_write_item", "to write to", named=False, RequestItems=request).get(
                        "UnprocessedItems", {}
                    )
                ),
                part,
                "to write to",
            )

        list(self._pool.map(write, range(0, len(requests), _WRITE)))

    def _until_done(
        self, call: Callable[[dict[str, Any]], dict[str, Any]], request: Mapping[str, Any], action: str
    ) -> None:
        left = dict(request)
        for attempt in range(_TRIES):
            if not (left := call(left)):
                return
            self._clock.sleep(_WAIT * 2**attempt)
        raise BackpressureError(f"DynamoDB throttles {action} table {self._name}; wait, or raise the limit", _WAIT * 20)

    def _update(
        self,
        key: _ItemKey,
        values: Mapping[str, object],
        *,
        condition: ConditionBase | None = None,
        add: Mapping[str, int] | None = None,
        returned: str = "NONE",
    ) -> _Item | None:
        """Set attributes, remove those that are None; returns `returned`, or None where the condition does not hold."""
        names = {f"#{place}": name for place, name in enumerate([*values, *(add or {})])}
        place_of = {name: place for place, name in names.items()}
        parts = {
            "SET": [f"{place_of[name]} = :{place_of[name][1:]}" for name, value in values.items() if value is not None],
            "REMOVE": [place_of[name] for name, value in values.items() if value is None],
            "ADD": [f"{place_of[name]} :{place_of[name][1:]}" for name in add or {}],
        }
        found: list[_Item] = []

        def update(**arguments: Any) -> Mapping[str, Any]:  # noqa: ANN401  boto3's
            answer = self._client.update_item(**arguments)
            found.append(answer.get("Attributes", {}))
            return dict(answer)

        arguments: dict[str, Any] = {
            "TableName": self._name,
            "Key": key,
            "UpdateExpression": " ".join(f"{verb} {', '.join(each)}" for verb, each in parts.items() if each),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {
                f":{place_of[name][1:]}": value
                for name, value in {**values, **(add or {})}.items()
                if value is not None
            },
            "ReturnValues": returned,
        }
        if condition is not None:
            arguments["ConditionExpression"] = condition
        write_if(update, self._action("to write to", "update_item"), **arguments)
        return found[0] if found else None

    def _query(self, condition: ConditionBase, *, index: bool = False, newest_first: bool = False) -> Iterator[_Item]:
        where: dict[str, Any] = {"IndexName": _INDEX} if index else {"ConsistentRead": True}
        pages = self._pages("query", KeyConditionExpression=condition, ScanIndexForward=not newest_first, **where)
        return (item for item in pages if self._is_kept(item))

    def _pages(self, operation: str, **request: Any) -> Iterator[_Item]:  # noqa: ANN401  boto3's
        start: dict[str, Any] = {}
        while True:
            answer = self._call(operation, "to read from", **request, **start)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def _call(self, operation: str, action: str, *, named: bool = True, **arguments: object) -> Mapping[str, Any]:
        with explained(self._action(action, operation)):
            table = {"TableName": self._name} if named else {}
            answer: Mapping[str, Any] = getattr(self._client, operation)(**table, **arguments)
        return answer

    def _action(self, action: str, operation: str) -> str:
        call = "".join(word.capitalize() for word in operation.split("_"))
        return f"{action} table {self._name} (dynamodb:{call})"

    def _expiry(self, after: timedelta | int = 1) -> int:
        """Epoch seconds of a moment from now; a number counts retentions."""
        length = after if isinstance(after, timedelta) else after * self._retention
        return self._clock.now_ms() // 1_000 + round(length.total_seconds())

    def _is_kept(self, item: Mapping[str, Any]) -> bool:
        """DynamoDB takes its time to remove what has expired."""
        return bool(item.get("expires_at", self._clock.now_ms()) >= self._clock.now_ms() // 1_000)


def _key(incident: str, kind: str = "INCIDENT") -> _ItemKey:
    return {"pk": f"{kind}#{incident[:2]}", "sk": incident}


def _last_key(scope: str) -> _ItemKey:
    return {"pk": f"SCOPE#{scope}", "sk": "LAST"}


def _key_of(item: Mapping[str, Any]) -> _ItemKey:
    return {"pk": item["pk"], "sk": item["sk"]}


def _outbox_key(reference: str, target: str) -> _ItemKey:
    return {"pk": "OUTBOX", "sk": f"{reference}#{target}"}


def _due(target: str, due_ms: int) -> _Item:
    return {"gsi1pk": f"DUE#{target}", "gsi1sk": f"{due_ms:016d}", "due_ms": due_ms}


def _verdict_key(record: EpisodeRecord) -> _ItemKey:
    """A digest stands for a value that is too long for a key: who attacks chooses the user agent."""
    kind, actor = record.actor or ("", "")
    if len(actor.encode()) > _LONGEST_KEY:
        actor = f"sha256:{hashlib.sha256(actor.encode()).hexdigest()}"
    return {"pk": f"VERDICT#{kind}#{actor}", "sk": record.id}


def _deletion(key: _ItemKey) -> _Item:
    return {"DeleteRequest": {"Key": key}}


def _deletions(item: Mapping[str, Any]) -> Sequence[_Item]:
    """Of the items beside an episode's."""
    keys = [_key(item["sk"], "HEAD")]
    if "verdict" in item and "actor" in item:
        keys.append(_verdict_key(record_of(_unpacked(item["document"]))))
    return list(map(_deletion, keys))


def _packed(text: str) -> str | bytes:
    return zlib.compress(text.encode()) if len(text) > _LARGE else text


def _unpacked(value: Any) -> Any:  # noqa: ANN401  JSON
    """What was packed; boto3 wraps bytes."""
    return json.loads(value if isinstance(value, str) else zlib.decompress(bytes(value)))


def _incident(
    item: _Item, actors: Sequence[Actor] = (), parent: Mapping[str, Any] | None = None, *, whole: bool = True
) -> Incident:
    summary = item.get("summary") if whole else None
    status_ms = item.get("status_ms")
    part = parent is not None and item["root"] != item["sk"]
    return incident_of(
        IncidentRow(record_of(_unpacked(item["document"])), summary_of(json.loads(summary)) if summary else None),
        Triage(
            TriageStatus(item.get("status", "none")),
            None if status_ms is None else int(status_ms),
            item.get("owner", ""),
            item.get("comment", ""),
        ),
        actors=actors,
        context=_unpacked(item["context"]) if "context" in item else None,
        parent_status=TriageStatus(parent.get("status", "none") if parent and part else "none"),
    )
