"""A place for files that outlives a machine: what checkpoints and live panels need of an object store."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

__all__ = ["ObjectStore"]


class ObjectStore(Protocol):
    """Objects under one prefix, by key; each is there whole or not at all, and everybody sees the newest at once.

    All methods raise RetryableError when the store cannot be reached, ConfigurationError when it denies permission.
    """

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        ...

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None when there is none."""
        ...

    def written_at(self, key: str) -> datetime | None:
        """When it was last written; None when there is none."""
        ...

    def replace(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write a small object if it still has this version (None: if there is none).

        Returns its new version, or None when somebody else wrote it: then nothing was changed.
        """
        ...

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whatever was there."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Get a file of any size.

        Raises:
            StateError: there is none.
        """
        ...

    def keys(self, prefix: str) -> list[str]:
        """Those that begin with it, in order."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove them; one that is gone is no error."""
        ...
