"""Items of a key-value table, and how large one may be."""

from collections.abc import Mapping
from typing import Final

from shopstream.errors import PermanentError

__all__ = ["MAX_BYTES", "Item", "ItemTooLargeError", "Key", "Value", "check_size", "size_of"]

Key = tuple[str, str]
"""`pk` and `sk`."""
Value = str | int | bytes | list[str]
Item = Mapping[str, Value]

MAX_BYTES: Final = 400 << 10
"""Of an item, names and values, says DynamoDB."""


class ItemTooLargeError(PermanentError):
    """What an item is to hold does not fit into one; nothing was written."""


def check_size(item: Item | None) -> None:
    """Refuse an item that DynamoDB would refuse.

    Raises:
        ItemTooLargeError: it names the incident by its id alone: keys and texts may be personal data.
    """
    if item is None or (size := size_of(item)) <= MAX_BYTES:
        return
    about = item.get("incident", item.get("incident_id"))
    what = f"the item {item.get('item')!r}" + (f" of incident {about!s}" if about else "")
    raise ItemTooLargeError(
        f"expected an item of at most {MAX_BYTES} bytes, {what} has {size}; let its rule have shorter keys or less "
        "evidence, or shorten its comment"
    )


def size_of(item: Item | None) -> int:
    """Bytes of an item, as DynamoDB counts them or a few more; 100 for a deletion."""
    return 100 if item is None else sum(len(name.encode()) + _length(value) for name, value in item.items())


def _length(value: Value) -> int:
    match value:
        case str():
            return len(value.encode())
        case bytes():
            return len(value)
        case int():
            return 21
        case _:
            return 3 + sum(1 + len(text.encode()) for text in value)
