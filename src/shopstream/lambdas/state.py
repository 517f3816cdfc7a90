"""The function's state in the table of incidents: detectors, open incidents, and up to which signals they know.

A *head* names the generation that counts. Its parts are written before, under a name of their own, so that a writer
that loses touches nothing of another's; what no head names expires.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from boto3.dynamodb.conditions import Attr, Key

from shopstream.aws.clients import dynamodb_client, explained, query_all, write_if
from shopstream.clock import Clock
from shopstream.errors import StateError
from shopstream.incidents.settings import DynamoSettings

KEPT: Final = timedelta(days=3)
"""Parts expire so long after they were written; `keep` puts that off."""
_HEAD: Final = {"pk": "DETECTION", "sk": "HEAD"}
_PART: Final = 350_000
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """What was saved.

    Args:
        generation: how often it was saved before, and this time.
        state: JSON-ready.
        positions: shard → sequence number of the last signal in it.
        until_ms: event time up to which all signals have come; None before the first.
        saved_ms: processing time.
    """

    generation: int
    state: Mapping[str, Any]
    positions: Mapping[str, int] = field(default_factory=dict)
    until_ms: int | None = None
    saved_ms: int = 0


class DetectionState:
    """One object belongs to one thread.

    Args:
        dynamo: names the table.
        clock: processing time.
    """

    def __init__(self, dynamo: DynamoSettings, clock: Clock) -> None:
        self._name = dynamo.table
        self._clock = clock
        self._client = dynamodb_client()
        self._expired = 0  # the generation whose parts are gone

    def generation(self) -> int:
        """How often it was saved, 0: never; so a process sees cheaply whether what it remembers still counts."""
        return int(self._head().get("generation", 0))

    def load(self) -> SavedState | None:
        """What was saved last; None where nothing was, or it was so long ago that it has expired.

        Raises:
            StateError: damaged, or of another version of shopstream.
        """
        while head := self._head():
            if (found := int(head["format"])) != _FORMAT:
                raise StateError(
                    f"expected the state of detection in format {_FORMAT}, got {found}; use the shopstream that wrote "
                    "it, or delete the item DETECTION/HEAD: detectors then start afresh"
                )
            parts = [bytes(part["data"]) for part in self._parts(head)]
            if len(parts) == head["parts"]:
                known = json.loads(head["known"])
                return SavedState(
                    generation=int(head["generation"]),
                    state=_unpacked(b"".join(parts)),
                    positions={shard: int(place) for shard, place in known["positions"].items()},
                    until_ms=known["until_ms"],
                    saved_ms=int(head["saved_ms"]),
                )
            if self._head() == head:
                self._expired = int(head["generation"])
                return None
        return None

    def keep(self) -> bool:
        """Put off the expiry of what was saved last, if it was long ago; whether there was anything to do."""
        head = self._head()
        now_ms = self._clock.now_ms()
        if not head or now_ms - max(head["saved_ms"], head.get("kept_ms", 0)) < KEPT // timedelta(milliseconds=3):
            return False
        for part in self._parts(head):
            self._put({**part, "expires_at": self._expiry(now_ms)})
        # where somebody saved meanwhile, nothing expires soon
        return self._put({**head, "kept_ms": now_ms}, Attr("generation").eq(head["generation"]))

    def save(
        self,
        state: Mapping[str, Any],
        positions: Mapping[str, int],
        *,
        until_ms: int | None = None,
        expected_generation: int = 0,
    ) -> int:
        """Save over the generation that was loaded or saved last, 0 where there was none; returns the new one.

        Raises:
            StateError: another has saved meanwhile; load again.
            RetryableError: not known to be saved; load again.
        """
        over = expected_generation or self._expired
        data = zlib.compress(json.dumps(state).encode())
        parts = [data[start : start + _PART] for start in range(0, len(data), _PART)]
        parts_id, now_ms = uuid4().hex, self._clock.now_ms()
        for place, part in enumerate(parts):
            expires_at = self._expiry(now_ms)
            self._put({"pk": f"DETECTION#{parts_id}", "sk": f"{place:04d}", "data": part, "expires_at": expires_at})
        # Sequence numbers have more digits than a number of the table may have.
        known = {"positions": {shard: str(place) for shard, place in positions.items()}, "until_ms": until_ms}
        head = {
            **_HEAD,
            "format": _FORMAT,
            "generation": over + 1,
            "parts_id": parts_id,
            "parts": len(parts),
            "known": json.dumps(known),
            "saved_ms": now_ms,
        }
        if not self._put(head, Attr("generation").eq(over) if over else Attr("pk").not_exists()):
            found = self._head()
            if found.get("parts_id") != parts_id:  # else the answer to the same call was lost
                raise StateError(
                    f"expected the state of detection of generation {over}, got {found.get('generation', 0)}: another "
                    "process works on the same signals; load again and go on from there"
                )
        return over + 1

    def _head(self) -> Mapping[str, Any]:
        with explained(f"to read from table {self._name} (dynamodb:GetItem)"):
            found: Mapping[str, Any] = self._client.get_item(TableName=self._name, Key=_HEAD, ConsistentRead=True)
        return dict(found.get("Item", {}))

    def _parts(self, head: Mapping[str, Any]) -> list[dict[str, Any]]:
        return query_all(
            self._client,
            f"to read from table {self._name} (dynamodb:Query)",
            TableName=self._name,
            KeyConditionExpression=Key("pk").eq(f"DETECTION#{head['parts_id']}"),
            ConsistentRead=True,
        )

    def _put(self, item: Mapping[str, Any], condition: object = None) -> bool:
        arguments: dict[str, object] = {"TableName": self._name, "Item": item}
        if condition is not None:
            arguments["ConditionExpression"] = condition
        return write_if(self._client.put_item, f"to write to table {self._name} (dynamodb:PutItem)", **arguments)

    def _expiry(self, now_ms: int) -> int:
        return now_ms // 1_000 + round(KEPT.total_seconds())


def _unpacked(data: bytes) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise StateError(
            "the state of detection is damaged; delete the item DETECTION/HEAD: detectors then start afresh"
        ) from error
    return state
