"""What can go wrong with a call, in the form that AWS gives it; see `proxy`.

A fault is a function of the call and of `forward`, which has the stand-in answer; it returns the answer, or None to
hang up.
"""

import json
import threading
import time
from collections import defaultdict
from hashlib import md5

from standins.call import Answer

_THROUGHPUT = "ProvisionedThroughputExceededException"
_THROTTLED = {
    "kinesis": (_THROUGHPUT, 400),
    "dynamodb": (_THROUGHPUT, 400),
    "firehose": ("ServiceUnavailableException", 503),
    "s3": ("SlowDown", 503),
    "sns": ("Throttling", 400),
    "sts": ("Throttling", 400),
}
_DENIED = {"s3": ("AccessDenied", 403), "sns": ("AuthorizationError", 403)}
_SKEWED = {"s3": ("RequestTimeTooSkewed", 403), "sns": ("SignatureDoesNotMatch", 403)}
_INTERNAL = {"kinesis": "InternalFailure", "dynamodb": "InternalServerError", "s3": "InternalError"}
ACCOUNT = "111122223333"


def error(code, message, status=400):
    """Any error, by its code."""
    return lambda call, _: call.error(code, message, status)


def throttled():
    """The service takes no more for now."""

    def fault(call, _):
        code, status = _THROTTLED.get(call.service, ("ThrottlingException", 400))
        return call.error(code, "Rate exceeded", status)

    return fault


def denied():
    """The role lacks a permission."""

    def fault(call, _):
        code, status = _DENIED.get(call.service, ("AccessDeniedException", 400))
        action = f"{call.service}:{call.operation}"
        who = f"User: arn:aws:sts::{ACCOUNT}:assumed-role/worker/task"
        reason = "because no identity-based policy allows the action"
        return call.error(code, f"{who} is not authorized to perform: {action} {reason}", status)

    return fault


def skewed():
    """This machine's clock is wrong."""

    def fault(call, _):
        code, status = _SKEWED.get(call.service, ("InvalidSignatureException", 400))
        message = (
            "Signature expired: 20261122T100000Z is now earlier than 20261122T103000Z (20261122T104500Z - 15 min.)"
        )
        return call.error(code, message, status)

    return fault


def failing(status=500):
    """The service fails on its side; nothing is done."""
    return lambda call, _: call.error(_INTERNAL.get(call.service, "InternalFailure"), "Internal failure", status)


def expired_iterator():
    """A shard iterator that is older than five minutes."""
    message = (
        "Iterator expired. The iterator was created at time Sun Nov 22 10:00:00 UTC 2026 while right now it is "
        "Sun Nov 22 10:06:00 UTC 2026 which is further in the future than the tolerated delay of 300000 milliseconds."
    )
    return error("ExpiredIteratorException", message)


def lost_request():
    """The connection breaks before the service had the call."""
    return lambda _call, _forward: None


def lost_answer():
    """The service does it, and the connection breaks before it can say so."""

    def fault(call, forward):
        forward(call)

    return fault


def cut_short():
    """The connection breaks in the middle of the answer."""

    def fault(call, forward):
        answer = forward(call)
        half = len(answer.body) // 2
        return Answer(answer.status, answer.headers, answer.body[:half], withheld=len(answer.body) - half)

    return fault


def slow(seconds):
    """The service takes its time."""

    def fault(call, forward):
        time.sleep(seconds)
        return forward(call)

    return fault


def twice():
    """The service gets the call twice, as if something on the way repeated it; the second answer comes back."""

    def fault(call, forward):
        forward(call)
        return forward(call)

    return fault


def partly(refuse=lambda index, _: index % 2 == 1, code=_THROUGHPUT):
    """Of a batch, refuse some: PutRecords, PutRecordBatch, BatchWriteItem.

    Args:
        refuse: whether an item is refused, by its index and the item as the call has it.
        code: of the error, for the first two.
    """

    def fault(call, forward):
        return _PARTLY[call.operation](call, forward, refuse, code)

    return fault


def _put_records(call, forward, refuse, code):
    refused = {
        "ErrorCode": code,
        "ErrorMessage": f"Rate exceeded for shard in stream {call.json.get('StreamName')} under account {ACCOUNT}."
        if code == _THROUGHPUT
        else "Internal service failure.",
    }
    return _merged(call, forward, refuse, refused, ("FailedRecordCount", "Records"))


def _put_record_batch(call, forward, refuse, code):
    code = "ServiceUnavailableException" if code == _THROUGHPUT else code
    refused = {"ErrorCode": code, "ErrorMessage": "Slow down."}
    return _merged(call, forward, refuse, refused, ("FailedPutCount", "RequestResponses"))


def _merged(call, forward, refuse, refused, names):
    """Pass on the records that are not refused, and put `refused` between their outcomes."""
    asked = call.json
    fate = [refuse(index, record) for index, record in enumerate(asked["Records"])]
    count, outcomes = names
    kept = [record for record, lost in zip(asked["Records"], fate, strict=True) if not lost]
    if kept:
        answer = forward(call, json.dumps(asked | {"Records": kept}).encode())
        if answer.status != 200:
            return answer
    else:
        answer = Answer(200, {"Content-Type": "application/x-amz-json-1.1"}, b"{}")
    content = answer.json
    taken = iter(content.get(outcomes, []))
    content[outcomes] = [refused if lost else next(taken) for lost in fate]
    content[count] = content.get(count, 0) + sum(fate)
    return answer.with_json(content)


def _batch_write_item(call, forward, refuse, _code):
    asked = call.json
    kept, lost, index = defaultdict(list), defaultdict(list), 0
    for table, requests in asked["RequestItems"].items():
        for request in requests:
            (lost if refuse(index, request) else kept)[table].append(request)
            index += 1
    if not kept:
        return Answer(200, {"Content-Type": "application/x-amz-json-1.0"}, b"").with_json({"UnprocessedItems": lost})
    answer = forward(call, json.dumps(asked | {"RequestItems": kept}).encode())
    if answer.status != 200:
        return answer
    content = answer.json
    for table, requests in lost.items():
        content.setdefault("UnprocessedItems", {}).setdefault(table, []).extend(requests)
    return answer.with_json(content)


_PARTLY = {"PutRecords": _put_records, "PutRecordBatch": _put_record_batch, "BatchWriteItem": _batch_write_item}


class ShardLimit:
    """PutRecords within limits of each shard, as Kinesis has them: what is over them is refused.

    Args:
        shards: so many equal slices of the hash-key space.
        records: taken a second and shard.
        size: bytes taken a second and shard; at rest it saves up for the largest record there may be.
    """

    def __init__(self, shards, *, records=1000, size=1 << 20):
        self._slice = (1 << 128) // shards
        self._rates = (records, size)
        self._most = max(size, 1 << 20)
        self._left = defaultdict(lambda: (0.0, float(records), float(self._most)))
        self._lock = threading.Lock()
        self.refused = 0

    def __call__(self, call, forward):
        with self._lock:
            fate = [self._over(record) for record in call.json["Records"]]
            self.refused += sum(fate)
        if not any(fate):
            return forward(call)
        return partly(lambda index, _: fate[index])(call, forward)

    def _over(self, record):
        hashed = md5(record["PartitionKey"].encode(), usedforsecurity=False).digest()
        place = int(record.get("ExplicitHashKey") or int.from_bytes(hashed))
        shard, now = place // self._slice, time.monotonic()
        then, records, size = self._left[shard]
        records = min(self._rates[0], records + (now - then) * self._rates[0])
        size = min(self._most, size + (now - then) * self._rates[1])
        needed = len(record["Data"]) * 3 // 4 + len(record["PartitionKey"])
        over = records < 1 or size < needed
        self._left[shard] = (now, records - (not over), size - (0 if over else needed))
        return over
