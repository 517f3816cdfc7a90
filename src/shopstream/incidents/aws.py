"""DynamoDB and SNS: incidents, verdicts, detector state, notifications. `docs/dynamodb.md` has the table's design."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from botocore.exceptions import ClientError

from shopstream.aws import clients as aws
from shopstream.clock import Clock
from shopstream.errors import BackpressureError
from shopstream.incidents.detector_state import StateInTable
from shopstream.incidents.item import check_size
from shopstream.incidents.ports import NotificationChannel
from shopstream.incidents.replicated import ReplicatedIncidentStore, ReplicatedOutbox, replica_of
from shopstream.incidents.settings import AlertingSettings, DynamoSettings
from shopstream.incidents.single_table import actor_pk
from shopstream.incidents.table import ConflictError, Item, Key, Operation, Value, key_of, number_of
from shopstream.notify.aws import SnsChannel
from shopstream.notify.sender import Sender

__all__ = [
    "DetectorState",
    "DynamoIncidentStore",
    "DynamoTable",
    "SnsChannel",
    "open_dynamo_sender",
    "pull_incidents",
    "retry_failed",
    "verdicts_of",
]

_INDEX: Final = "gsi1"
_GET: Final = 100
_PUT: Final = 25
_SEGMENTS: Final = 4
_TRIES: Final = 8
_WAIT: Final = timedelta(milliseconds=50)
_LOST: Final = frozenset({"ConditionalCheckFailed", "TransactionConflict"})
_BUSY: Final = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded"})
_CONFLICTS: Final = frozenset({"TransactionConflictException", "TransactionInProgressException"})


class DynamoTable:
    """See `table.Table`.

    Args:
        name: of the table.
        clock: waits between repetitions.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._client = aws.client("dynamodb")

    def get(self, keys: Iterable[Key]) -> dict[Key, Item]:
        """See `table.Table.get`."""
        found: dict[Key, Item] = {}
        wanted = [_key(key) for key in keys]
        for first in range(0, len(wanted), _GET):
            part = wanted[first : first + _GET]
            for attempt in range(_TRIES):
                with self._explained("to read items of", "BatchGetItem"):
                    answer = self._client.batch_get_item(
                        RequestItems={self._name: {"Keys": part, "ConsistentRead": True}}
                    )
                for item in map(_plain, answer["Responses"].get(self._name, ())):
                    found[key_of(item)] = item
                part = answer.get("UnprocessedKeys", {}).get(self._name, {}).get("Keys", [])
                if not part:
                    break
                self._clock.sleep(_WAIT * 2**attempt)
            else:
                raise self._busy("to read items of")
        return found

    def query(
        self, pk: str, *, after: str = "", until: str = "", newest_first: bool = False, page: int | None = None
    ) -> Iterator[Item]:
        """See `table.Table.query`."""
        condition, values = "pk = :pk", {":pk": {"S": pk}}
        if after and until:
            condition += " AND sk BETWEEN :after AND :until"
        elif after:
            condition += " AND sk > :after"
        elif until:
            condition += " AND sk <= :until"
        values |= {name: {"S": value} for name, value in ((":after", after), (":until", until)) if value}
        request: dict[str, Any] = {
            "TableName": self._name,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            "ScanIndexForward": not newest_first,
        }
        for item in self._pages("query", request | ({"Limit": page} if page else {})):
            if item["sk"] != after:
                yield item

    def indexed(self, pk: str) -> Iterator[Key]:
        """See `table.Table.indexed`."""
        request = {
            "TableName": self._name,
            "IndexName": _INDEX,
            "KeyConditionExpression": "gsi1pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": pk}},
            "ProjectionExpression": "pk, sk",
        }
        for item in self._pages("query", request):
            yield key_of(item)

    def scan(self, kinds: Sequence[str]) -> Iterator[Item]:
        """See `table.Table.scan`; segments are read at the same time."""
        names = {f":{place}": {"S": kind} for place, kind in enumerate(kinds)}
        request = {
            "TableName": self._name,
            "FilterExpression": f"#item IN ({', '.join(names)})",
            "ExpressionAttributeNames": {"#item": "item"},
            "ExpressionAttributeValues": names,
            "ConsistentRead": True,
            "TotalSegments": _SEGMENTS,
        }

        def segment(place: int) -> list[Item]:
            return list(self._pages("scan", {**request, "Segment": place}))

        with ThreadPoolExecutor(_SEGMENTS) as pool:
            for found in pool.map(segment, range(_SEGMENTS)):
                yield from found

    def write(self, operations: Sequence[Operation]) -> None:
        """See `table.Table.write`."""
        for one in operations:
            check_size(one.item)
        request = [self._operation(one) for one in operations]
        with self._explained("to write to", "TransactWriteItems"):
            try:
                # The client repeats a call whose answer was lost; the token makes that one transaction.
                self._client.transact_write_items(TransactItems=request, ClientRequestToken=uuid4().hex)
            except self._client.exceptions.TransactionCanceledException as error:
                self._cancelled(error)
                raise
            except ClientError as error:
                if aws.error_code(error) in _CONFLICTS:
                    raise ConflictError(f"another transaction is at the same items of table {self._name}") from error
                raise

    def put(self, items: Sequence[Item]) -> None:
        """See `table.Table.put`; what is large goes alone."""
        for item in items:
            check_size(item)
        requests = [{"PutRequest": {"Item": _marked(item)}} for item in items]
        size = 1 if any(isinstance(value, bytes) for item in items for value in item.values()) else _PUT
        for first in range(0, len(requests), size):
            part = requests[first : first + size]
            for attempt in range(_TRIES):
                with self._explained("to write to", "BatchWriteItem"):
                    answer = self._client.batch_write_item(RequestItems={self._name: part})
                part = answer.get("UnprocessedItems", {}).get(self._name, [])
                if not part:
                    break
                self._clock.sleep(_WAIT * 2**attempt)
            else:
                raise self._busy("to write to")

    def _pages(self, operation: str, request: Mapping[str, Any]) -> Iterator[Item]:
        start: dict[str, Any] = {}
        while True:
            with self._explained("to read from", operation.capitalize()):
                answer = getattr(self._client, operation)(**request, **start)
            yield from map(_plain, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def _operation(self, one: Operation) -> dict[str, Any]:
        expected = {
            "ConditionExpression": " AND ".join(
                f"attribute_not_exists(#{name})" if value is None else f"#{name} = :{name}"
                for name, value in one.expect.items()
            ),
            "ExpressionAttributeNames": {f"#{name}": name for name in one.expect},
            "ExpressionAttributeValues": {
                f":{name}": _typed(value) for name, value in one.expect.items() if value is not None
            },
        }
        condition = {name: value for name, value in expected.items() if value}
        if one.check:
            return {"ConditionCheck": {"TableName": self._name, "Key": _key(one.key), **condition}}
        if one.item is None:
            return {"Delete": {"TableName": self._name, "Key": _key(one.key), **condition}}
        return {"Put": {"TableName": self._name, "Item": _marked(one.item), **condition}}

    def _cancelled(self, error: ClientError) -> None:
        """Raise what a cancelled transaction means, unless it means what its own code says."""
        reasons: Any = error.response.get("CancellationReasons", ())
        codes = {str(reason.get("Code")) for reason in reasons}
        if codes & _LOST:
            raise ConflictError(f"another has written to table {self._name} meanwhile") from error
        if codes & _BUSY:
            raise self._busy("to write to") from error

    def _busy(self, action: str) -> BackpressureError:
        return BackpressureError(
            f"DynamoDB throttles {action} table {self._name}; wait, or raise the limit", _WAIT * 20
        )

    def _explained(self, action: str, call: str) -> AbstractContextManager[None]:
        return aws.explained(f"{action} table {self._name} (dynamodb:{call})")


class DynamoIncidentStore(ReplicatedIncidentStore):
    """See `replicated.ReplicatedIncidentStore`.

    Args:
        settings: retention, and which incidents people are told of.
        dynamo: the table.
        clock: for the moments of notifications and of what people do, and for expiry.
        targets: names of the channels that notifications are queued for; see `notify.targets_of`.
        working_copy: the SQLite file; made where it is missing, and never more than a copy.
    """

    def __init__(
        self,
        settings: AlertingSettings,
        dynamo: DynamoSettings,
        clock: Clock,
        targets: Sequence[str] = (),
        *,
        working_copy: Path,
    ) -> None:
        super().__init__(DynamoTable(dynamo.table, clock), settings, clock, targets, working_copy)


class DetectorState(StateInTable):
    """See `detector_state.StateInTable`.

    Args:
        dynamo: the table.
        clock: processing time.
    """

    def __init__(self, dynamo: DynamoSettings, clock: Clock) -> None:
        super().__init__(DynamoTable(dynamo.table, clock), clock)


def pull_incidents(settings: AlertingSettings, dynamo: DynamoSettings, clock: Clock, path: Path) -> None:
    """Bring a file to what the table has, for those that read incidents; it needs no right to write.

    Raises:
        RetryableError: the table cannot be read.
        StateError: there is no such table, or the file holds incidents of its own.
    """
    with closing(replica_of(DynamoTable(dynamo.table, clock), path, settings, clock, complete=True)) as replica:
        replica.follow()


def open_dynamo_sender(
    settings: AlertingSettings,
    dynamo: DynamoSettings,
    clock: Clock,
    channels: Sequence[NotificationChannel],
    *,
    working_copy: Path,
) -> Sender:
    """Delivers what waits, in a thread or process of its own; see `ReplicatedIncidentStore.sender` for that of a store.

    Raises:
        RetryableError: the table cannot be read.
    """
    replica = replica_of(DynamoTable(dynamo.table, clock), working_copy, settings, clock, complete=False)
    replica.follow(writes=True)
    return Sender(ReplicatedOutbox(replica), channels, settings, clock)


def retry_failed(settings: AlertingSettings, dynamo: DynamoSettings, clock: Clock, path: Path) -> int:
    """Let notifications that were given up be tried again; returns how many."""
    replica = replica_of(DynamoTable(dynamo.table, clock), path, settings, clock, complete=True)
    with closing(ReplicatedOutbox(replica)) as outbox:
        replica.follow(writes=True)
        return outbox.retry_failed(clock.now_ms())


def verdicts_of(table: DynamoTable, kind: str, actor: str) -> list[Mapping[str, Value]]:
    """What is known of an actor: one item per episode, the newest first; what the shop's edge asks.

    Args:
        table: that of the incidents.
        kind: column of a key, such as `user_id` or `ip`.
        actor: its value.
    """
    return sorted(table.query(actor_pk(kind, actor)), key=lambda item: -number_of(item, "until_ms"))


def _key(key: Key) -> dict[str, Any]:
    return {"pk": {"S": key[0]}, "sk": {"S": key[1]}}


def _typed(value: Value) -> dict[str, Any]:
    match value:
        case str():
            return {"S": value}
        case int():
            return {"N": str(int(value))}
        case bytes():
            return {"B": value}
        case _:
            return {"L": [{"S": text} for text in value]}


def _marked(item: Item) -> dict[str, Any]:
    return {name: _typed(value) for name, value in item.items()}


def _plain(item: Mapping[str, Any]) -> Item:
    return {name: _value(*typed.popitem()) for name, typed in item.items()}


def _value(kind: str, value: Any) -> Value:  # noqa: ANN401  as boto3 gives it
    match kind:
        case "N":
            return int(value)
        case "L":
            return [text["S"] for text in value]
        case "B":
            return bytes(value)
        case _:
            return str(value)
