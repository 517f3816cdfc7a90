"""The DynamoDB table in which consumers of a stream note how far they are, and share its shards.

Partition key `pk`: stream/consumer, sort key `sk`: shard id. Attributes: `position` (a string: a DynamoDB number has 38
digits, a sequence number 56), and of leases `owner`, `counter`, `ended`; no time stands in them. The consumer `#newest`
is nobody's: it tells when (`seen_ms`, epoch milliseconds) a position was seen to be the newest of its shard.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from shopstream.aws.clients import client, explained
from shopstream.clock import Clock
from shopstream.errors import BackpressureError, PermanentError, RetryableError
from shopstream.stream.leases import Lease
from shopstream.stream.ports import Position

__all__ = ["LeaseTable", "NewestTable"]

_LOGGER = logging.getLogger(__name__)
_MOST_IN_TRANSACTION: Final = 100
_BACK_OFF: Final = timedelta(milliseconds=500)
_NOTE_AGAIN: Final = timedelta(hours=1)
_TRY_AGAIN: Final = timedelta(minutes=1)
_MARGIN: Final = timedelta(minutes=5)
"""Clocks of writers of notes may differ by so much."""

_MS: Final = timedelta(milliseconds=1)


class LeaseTable:
    """One consumer's rows: positions and leases.

    Args:
        table: name of the table.
        consumer: stream/consumer.
        dynamodb: boto3's client; None makes one.
    """

    def __init__(self, table: str, consumer: str, dynamodb: Any = None) -> None:  # noqa: ANN401  made at run time
        self._table = table
        self._consumer = consumer
        self._client = dynamodb or client("dynamodb")

    # Positions

    def positions(self) -> dict[str, Position]:
        """Shard id → position."""
        return {item["sk"]["S"]: int(item["position"]["S"]) for item in self._items() if "position" in item}

    def commit(self, positions: Mapping[str, Position]) -> None:
        """Remember positions, all or none.

        Raises:
            BackpressureError: another process is committing them, or the table throttles.
            PermanentError: more than DynamoDB changes at once.
        """
        if len(positions) > _MOST_IN_TRANSACTION:
            raise PermanentError(
                f"positions of at most {_MOST_IN_TRANSACTION} shards can be committed at once, got {len(positions)}; "
                "merge shards, or let several workers share them"
            )
        changes = [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": self._key(shard_id),
                    "UpdateExpression": "SET #position = :position",
                    "ExpressionAttributeNames": {"#position": "position"},
                    "ExpressionAttributeValues": {":position": {"S": str(position)}},
                }
            }
            for shard_id, position in positions.items()
        ]
        if not changes:
            return
        try:
            with explained(f"to commit positions to table {self._table} (dynamodb:UpdateItem)"):
                self._client.transact_write_items(TransactItems=changes)
        except PermanentError as error:
            if not isinstance(error.__cause__, self._client.exceptions.TransactionCanceledException):
                raise
            # There is no condition in it: another transaction was at the same rows, or the table throttles.
            raise BackpressureError(f"positions cannot be committed now ({error}); try again", _BACK_OFF) from error

    # Leases

    def all(self) -> list[Lease]:
        """All leases of the consumer."""
        return [_lease(item) for item in self._items() if "counter" in item]

    def add(self, name: str) -> Lease:
        """The lease of that name; made, and free, where there was none."""
        with explained(f"to make a lease in table {self._table} (dynamodb:UpdateItem)"):
            answer = self._client.update_item(
                TableName=self._table,
                Key=self._key(name),
                UpdateExpression="SET #counter = if_not_exists(#counter, :zero)",
                ExpressionAttributeNames={"#counter": "counter"},
                ExpressionAttributeValues={":zero": {"N": "0"}},
                ReturnValues="ALL_NEW",
            )
        return _lease(answer["Attributes"])

    def change(self, old: Lease, new: Lease) -> bool:
        """Put `new` in the place of `old`, unless somebody changed it meanwhile; returns whether it stands."""
        try:
            with explained(f"to change a lease in table {self._table} (dynamodb:PutItem)"):
                self._client.put_item(
                    TableName=self._table,
                    Item=self._key(old.name) | _attributes(new),
                    ConditionExpression="#counter = :counter",
                    ExpressionAttributeNames={"#counter": "counter"},
                    ExpressionAttributeValues={":counter": {"N": str(old.counter)}},
                )
        except PermanentError as error:
            if not isinstance(error.__cause__, self._client.exceptions.ConditionalCheckFailedException):
                raise
            return self._one(new.name) == new  # a try whose answer was lost
        return True

    def remove(self, lease: Lease) -> bool:
        """Delete it, unless somebody changed it meanwhile; returns whether it is gone."""
        try:
            with explained(f"to remove a lease from table {self._table} (dynamodb:DeleteItem)"):
                self._client.delete_item(
                    TableName=self._table,
                    Key=self._key(lease.name),
                    ConditionExpression="attribute_not_exists(#counter) OR #counter = :counter",
                    ExpressionAttributeNames={"#counter": "counter"},
                    ExpressionAttributeValues={":counter": {"N": str(lease.counter)}},
                )
        except PermanentError as error:
            if not isinstance(error.__cause__, self._client.exceptions.ConditionalCheckFailedException):
                raise
            return False
        return True

    def _one(self, name: str) -> Lease | None:
        with explained(f"to read a lease in table {self._table} (dynamodb:GetItem)"):
            answer = self._client.get_item(TableName=self._table, Key=self._key(name), ConsistentRead=True)
        item = answer.get("Item")
        return _lease(item) if item and "counter" in item else None

    def _items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        wanted: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :consumer",
            "ExpressionAttributeValues": {":consumer": {"S": self._consumer}},
            "ConsistentRead": True,
        }
        with explained(f"to read table {self._table} (dynamodb:Query)"):
            while True:
                answer = self._client.query(**wanted)
                found += answer["Items"]
                if "LastEvaluatedKey" not in answer:
                    return found
                wanted["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _key(self, name: str) -> dict[str, Any]:
        return {"pk": {"S": self._consumer}, "sk": {"S": name}}


class NewestTable:
    """When a position was seen to be the newest of its shard; noted at most once an hour and shard.

    Only consumers note (`writing`): a command that looks on needs no right to write.

    Args:
        table: name of the table.
        stream: name of the stream.
        clock: tells when.
        retention: asks how long the stream keeps records.
        dynamodb: boto3's client.
    """

    def __init__(
        self,
        table: str,
        stream: str,
        *,
        clock: Clock,
        retention: Callable[[], timedelta],
        dynamodb: Any,  # noqa: ANN401  made at run time
    ) -> None:
        self._table = table
        self._consumer = f"{stream}/#newest"
        self._clock = clock
        self._retention = retention
        self._client = dynamodb
        self._noted_ms: dict[str, int] = {}
        self.writing = False

    def note(self, shard_id: str, position: Position) -> None:
        """Nothing comes after this position now."""
        now_ms = self._clock.now_ms()
        if not self.writing or now_ms - self._noted_ms.get(shard_id, 0) < _NOTE_AGAIN // _MS:
            return
        item = {
            "pk": {"S": self._consumer},
            "sk": {"S": shard_id},
            "position": {"S": str(position)},
            "seen_ms": {"N": str(now_ms)},
        }
        self._noted_ms[shard_id] = now_ms
        try:
            with explained(f"to note the newest record in table {self._table} (dynamodb:PutItem)"):
                self._client.put_item(TableName=self._table, Item=item)
        except RetryableError as error:  # no reason to stop reading
            _LOGGER.warning("noted again in a minute: %s", error)
            self._noted_ms[shard_id] = now_ms - (_NOTE_AGAIN - _TRY_AGAIN) // _MS

    def still_newest(self, shard_id: str, position: Position) -> bool:
        """Whether nothing that came after this position can have been dropped by retention."""
        with explained(f"to look for the newest record in table {self._table} (dynamodb:GetItem)"):
            answer = self._client.get_item(
                TableName=self._table, Key={"pk": {"S": self._consumer}, "sk": {"S": shard_id}}, ConsistentRead=True
            )
        item = answer.get("Item")
        if item is None or item["position"]["S"] != str(position):
            return False
        return self._clock.now_ms() - int(item["seen_ms"]["N"]) < (self._retention() - _MARGIN) // _MS


def _lease(item: Mapping[str, Any]) -> Lease:
    return Lease(
        name=item["sk"]["S"],
        owner=item["owner"]["S"] if "owner" in item else None,
        counter=int(item["counter"]["N"]),
        position=int(item["position"]["S"]) if "position" in item else None,
        ended=item.get("ended", {}).get("BOOL", False),
    )


def _attributes(lease: Lease) -> dict[str, Any]:
    attributes: dict[str, Any] = {"counter": {"N": str(lease.counter)}}
    if lease.owner is not None:
        attributes["owner"] = {"S": lease.owner}
    if lease.position is not None:
        attributes["position"] = {"S": str(lease.position)}
    if lease.ended:
        attributes["ended"] = {"BOOL": True}
    return attributes
