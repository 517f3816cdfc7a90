"""What products are called: category and brand, kept once for each product instead of in every pane."""

import duckdb

from shopstream.engine.operators import BATCH
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration

__all__ = ["ProductNames"]


class ProductNames:
    """A table `product_names` (product_id, category, brand); grows with the catalogue.

    Args:
        connection: of the engine's database.
        declaration: the window over products that this belongs to.
    """

    columns: tuple[str, ...] = ("brand", "category_code", "category_id", "product_id")
    ordered = False

    def __init__(self, connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration) -> None:
        self.declaration = declaration
        self._connection = connection
        connection.execute("CREATE TABLE product_names (product_id BIGINT, category VARCHAR, brand VARCHAR)")

    def absorb(self) -> None:
        """Take the names of products that are new."""
        self._connection.execute(f"""
            INSERT INTO product_names
            SELECT product_id, coalesce(max(category_code), '(no code) ' || max(category_id)), max(brand)
            FROM {BATCH} ANTI JOIN product_names USING (product_id) GROUP BY product_id""")

    def advance(self, watermark_ms: int) -> list[Signal]:  # noqa: ARG002  names know no time
        """Names give no signals."""
        return []

    def forget(self, watermark_ms: int) -> None:
        """Nothing gets too old: a catalogue is bounded."""

    def state_tables(self) -> tuple[str, ...]:
        """The names."""
        return ("product_names",)

    def resume(self, watermark_ms: int) -> None:
        """Nothing else to take up."""
