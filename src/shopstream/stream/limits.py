"""What one put may hold: the limits of Kinesis, so that what fits here fits there."""

from collections.abc import Sequence

from shopstream.errors import PermanentError
from shopstream.stream.ports import HASH_KEY_SPACE, MAX_PUT_BYTES, MAX_PUT_RECORDS, MAX_RECORD_BYTES, NewRecord

__all__ = ["MAX_PARTITION_KEY_CHARACTERS", "check_put"]

MAX_PARTITION_KEY_CHARACTERS = 256


def check_put(records: Sequence[NewRecord]) -> int:
    """Total bytes of a put, payloads and partition keys, when it is within all limits.

    Raises:
        PermanentError: too many records, a record or the whole too large, a partition key or explicit hash key that
            does not fit; the message names the record by its place in the call.
    """
    if len(records) > MAX_PUT_RECORDS:
        raise PermanentError(f"a put takes at most {MAX_PUT_RECORDS} records, got {len(records)}; put them in parts")
    total = 0
    for place, record in enumerate(records):
        size = len(record.payload) + _partition_key_bytes(place, record.partition_key)
        if size > MAX_RECORD_BYTES:
            raise PermanentError(
                f"a record takes at most {MAX_RECORD_BYTES} bytes with its partition key, record {place} has {size}; "
                "put fewer events into one record"
            )
        if record.explicit_hash_key is not None and not 0 <= record.explicit_hash_key < HASH_KEY_SPACE:
            raise PermanentError(
                f"an explicit hash key lies in [0, 2**128), record {place} has {record.explicit_hash_key}; "
                "take one from the range of the shard that is meant"
            )
        total += size
    if total > MAX_PUT_BYTES:
        raise PermanentError(f"a put takes at most {MAX_PUT_BYTES} bytes, got {total}; put the records in parts")
    return total


def _partition_key_bytes(place: int, key: str) -> int:
    if not 1 <= len(key) <= MAX_PARTITION_KEY_CHARACTERS:
        raise PermanentError(
            f"a partition key has 1 to {MAX_PARTITION_KEY_CHARACTERS} characters, record {place} has {len(key)}; "
            "shorten it, or give records without a natural key a constant one"
        )
    try:
        return len(key.encode())
    except UnicodeEncodeError as error:
        raise PermanentError(
            f"a partition key is text that UTF-8 can encode, record {place} has {key!a}; replace the lone surrogates"
        ) from error
