"""What flows: the event, its fields, its identity, and how it is written in bytes."""

from shopstream.events.codec import (
    REJECT_SCHEMA,
    Decoded,
    Decoder,
    decode,
    encode_arrow,
    encode_csv,
    encode_json,
)
from shopstream.events.identity import EVENT_ID_SQL, content_id
from shopstream.events.schema import WIRE_SCHEMA, EventType
from shopstream.events.validation import REASONS, Fault, Reason

__all__ = [
    "EVENT_ID_SQL",
    "REASONS",
    "REJECT_SCHEMA",
    "WIRE_SCHEMA",
    "Decoded",
    "Decoder",
    "EventType",
    "Fault",
    "Reason",
    "content_id",
    "decode",
    "encode_arrow",
    "encode_csv",
    "encode_json",
]
