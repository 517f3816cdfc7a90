"""Where the live view is published."""

from collections.abc import Mapping
from typing import Protocol

__all__ = ["LiveStore"]


class LiveStore(Protocol):
    """Holds the newest picture of each panel; readers are other processes."""

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace panels (name → JSON-ready value), all at once; `as_of_ms` is event time."""
        ...

    def read(self) -> dict[str, object]:
        """Name → value, and `as_of_ms`; empty before the first publication."""
        ...

    def close(self) -> None:
        """Publish what waits, and give the store back."""
        ...
