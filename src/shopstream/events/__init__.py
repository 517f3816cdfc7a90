"""What flows: the event, its fields, its identity, and how it is written in bytes."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.events.columns import EventType

if TYPE_CHECKING:
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
    from shopstream.events.schema import WIRE_SCHEMA
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

# Detection knows events by their columns' names alone; codecs need Arrow and DuckDB, which are large and slow to load.
_HOMES = {
    "EVENT_ID_SQL": "identity",
    "REASONS": "validation",
    "REJECT_SCHEMA": "codec",
    "WIRE_SCHEMA": "schema",
    "Decoded": "codec",
    "Decoder": "codec",
    "Fault": "validation",
    "Reason": "validation",
    "content_id": "identity",
    "decode": "codec",
    "encode_arrow": "codec",
    "encode_csv": "codec",
    "encode_json": "codec",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
