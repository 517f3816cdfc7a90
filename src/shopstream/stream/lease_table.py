"""The DynamoDB table in which consumers of a stream record their positions, and share its shards by leases.

Partition key `pk`: stream/consumer, sort key `sk`: shard id. Attributes: `position` (a string: a DynamoDB number has 38
digits, a sequence number 56), and of leases `owner`, `counter`, `ended`; no time stands in them. The pseudo-consumer
`#newest` records when (`seen_ms`, epoch milliseconds) a position was seen to be the newest of its shard.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from boto3.dynamodb.conditions import Attr, Key

from shopstream.aws.clients import dynamodb_client, explained, query_all, write_if
from shopstream.clock import MILLISECOND, Clock
from shopstream.errors import BackpressureError, PermanentError, RetryableError
from shopstream.stream.leases import Lease
from shopstream.stream.ports import Position

_LOGGER = logging.getLogger(__name__)
_MAX_IN_TRANSACTION: Final = 100
_BACK_OFF: Final = timedelta(milliseconds=500)
_NOTE_AGAIN: Final = timedelta(hours=1)
_TRY_AGAIN: Final = timedelta(minutes=1)
_CLOCK_SKEW: Final = timedelta(minutes=5)
"""The clocks of two processes that write notes may differ by this much."""


class LeaseTable:
    """One consumer's rows: positions and leases.

    Args:
        table: name of the table.
        consumer: stream/consumer.
        dynamodb: client of `aws.dynamodb`; None makes one.
    """

    def __init__(self, table: str, consumer: str, dynamodb: Any = None) -> None:  # noqa: ANN401  made at run time
        self._table = table
        self._consumer = consumer
        self._client = dynamodb or dynamodb_client()

    # Positions

    def positions(self) -> dict[str, Position]:
        """Shard id → position."""
        return {item["sk"]: int(item["position"]) for item in self._items() if "position" in item}

    def commit(self, positions: Mapping[str, Position]) -> None:
        """Store positions, all or none.

        Raises:
            BackpressureError: another process is committing them, or the table throttles.
            PermanentError: more than DynamoDB changes at once.
        """
        if len(positions) > _MAX_IN_TRANSACTION:
            raise PermanentError(
                f"positions of at most {_MAX_IN_TRANSACTION} shards can be committed at once, got {len(positions)}; "
                "merge shards, or let several workers share them"
            )
        changes = [
            {
                "Update": {
                    "TableName": self._table,
                    "Key": self._key(shard_id),
                    "UpdateExpression": "SET #position = :position",
                    "ExpressionAttributeNames": {"#position": "position"},
                    "ExpressionAttributeValues": {":position": str(position)},
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
        """The lease of that name; created, and free, if there was none."""
        with explained(f"to make a lease in table {self._table} (dynamodb:UpdateItem)"):
            answer = self._client.update_item(
                TableName=self._table,
                Key=self._key(name),
                UpdateExpression="SET #counter = if_not_exists(#counter, :zero)",
                ExpressionAttributeNames={"#counter": "counter"},
                ExpressionAttributeValues={":zero": 0},
                ReturnValues="ALL_NEW",
            )
        return _lease(answer["Attributes"])

    def change(self, old: Lease, new: Lease) -> bool:
        """Replace `old` by `new` unless another process has changed it; returns whether `new` is stored."""
        values = {
            "counter": new.counter,
            "owner": new.owner,
            "position": None if new.position is None else str(new.position),
            "ended": new.ended or None,
        }
        written = write_if(
            self._client.put_item,
            f"to change a lease in table {self._table} (dynamodb:PutItem)",
            TableName=self._table,
            Item=self._key(old.name) | {name: value for name, value in values.items() if value is not None},
            ConditionExpression=Attr("counter").eq(old.counter),
        )
        return written or self._get(new.name) == new  # an attempt whose answer was lost

    def remove(self, lease: Lease) -> bool:
        """Delete it unless another process has changed it; returns whether it is gone."""
        return write_if(
            self._client.delete_item,
            f"to remove a lease from table {self._table} (dynamodb:DeleteItem)",
            TableName=self._table,
            Key=self._key(lease.name),
            ConditionExpression=Attr("counter").not_exists() | Attr("counter").eq(lease.counter),
        )

    def _get(self, name: str) -> Lease | None:
        with explained(f"to read a lease in table {self._table} (dynamodb:GetItem)"):
            answer = self._client.get_item(TableName=self._table, Key=self._key(name), ConsistentRead=True)
        item = answer.get("Item")
        return _lease(item) if item and "counter" in item else None

    def _items(self) -> list[dict[str, Any]]:
        return query_all(
            self._client,
            f"to read table {self._table} (dynamodb:Query)",
            TableName=self._table,
            KeyConditionExpression=Key("pk").eq(self._consumer),
            ConsistentRead=True,
        )

    def _key(self, name: str) -> dict[str, str]:
        return {"pk": self._consumer, "sk": name}


class NewestTable:
    """Records when a position was seen to be the newest of its shard, at most once an hour and shard.

    Only consumers write (`writing`): a command that only reads needs no write permission.

    Args:
        table: name of the table.
        stream: name of the stream.
        clock: processing time.
        retention: returns how long the stream keeps records.
        dynamodb: client of `aws.dynamodb`.
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
        """Record that no record follows this position now."""
        now_ms = self._clock.now_ms()
        if not self.writing or now_ms - self._noted_ms.get(shard_id, 0) < _NOTE_AGAIN // MILLISECOND:
            return
        item = {"pk": self._consumer, "sk": shard_id, "position": str(position), "seen_ms": now_ms}
        self._noted_ms[shard_id] = now_ms
        try:
            with explained(f"to note the newest record in table {self._table} (dynamodb:PutItem)"):
                self._client.put_item(TableName=self._table, Item=item)
        except RetryableError as error:  # reading continues without the note
            _LOGGER.warning("the position will be noted again in a minute: %s", error)
            self._noted_ms[shard_id] = now_ms - (_NOTE_AGAIN - _TRY_AGAIN) // MILLISECOND

    def still_newest(self, shard_id: str, position: Position) -> bool:
        """Whether retention cannot have dropped any record that followed this position."""
        with explained(f"to look for the newest record in table {self._table} (dynamodb:GetItem)"):
            answer = self._client.get_item(
                TableName=self._table, Key={"pk": self._consumer, "sk": shard_id}, ConsistentRead=True
            )
        item = answer.get("Item")
        if item is None or item["position"] != str(position):
            return False
        return self._clock.now_ms() - int(item["seen_ms"]) < (self._retention() - _CLOCK_SKEW) // MILLISECOND


def _lease(item: Mapping[str, Any]) -> Lease:
    return Lease(
        name=item["sk"],
        owner=item.get("owner"),
        counter=int(item["counter"]),
        position=int(item["position"]) if "position" in item else None,
        ended=item.get("ended", False),
    )
