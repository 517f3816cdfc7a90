"""The columns of an event, declared once, in plain Python; `schema` adds their Arrow types.

The first nine are REES46's columns in file order; the next four are those that a production tracker adds. New columns
go to the end: the columns in Arrow, DuckDB, Iceberg and dbt all derive from this list.
"""

from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """What a shopper did. A multi-category shop may never send `remove_from_cart`."""

    VIEW = "view"
    CART = "cart"
    REMOVE_FROM_CART = "remove_from_cart"
    PURCHASE = "purchase"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: the same in every store.
        duckdb: SQL type.
        required: never null.
        doc: one sentence; the column's description in every catalogue.
    """

    name: str
    duckdb: str
    required: bool
    doc: str


EVENT_COLUMNS: tuple[Column, ...] = (
    Column("event_time", "TIMESTAMPTZ", True, "When it happened, UTC."),
    Column("event_type", "VARCHAR", True, "view, cart, remove_from_cart or purchase."),
    Column("product_id", "BIGINT", True, "The product."),
    Column("category_id", "BIGINT", True, "The product's category; the stream's partition key by default."),
    Column("category_code", "VARCHAR", False, "Dotted path of the category, where the shop has one."),
    Column("brand", "VARCHAR", False, "Brand in lower case; `nan` is the name of a real one."),
    Column("price", "DECIMAL(18,4)", True, "Price of one piece in the shop's currency."),
    Column("user_id", "BIGINT", True, "The shopper; personal data."),
    Column("user_session", "VARCHAR", False, "The tracker's session id; may be absent or shared."),
    Column("event_id", "VARCHAR", False, "The tracker's id of this event, or one derived from its content."),
    Column("ip", "VARCHAR", False, "Client address, where the tracker sends it; personal data."),
    Column("user_agent", "VARCHAR", False, "Client software, where the tracker sends it."),
    Column("url", "VARCHAR", False, "Page address, where the tracker sends it."),
)

REES46_COLUMNS: tuple[str, ...] = tuple(column.name for column in EVENT_COLUMNS[:9])
"""The header of a REES46 file."""
