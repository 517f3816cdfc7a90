"""Where the files of the tables lie: the few things that local folders and S3 do differently."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from fsspec import AbstractFileSystem

__all__ = ["Storage"]


class Storage(Protocol):
    """Files by location: an absolute path, or a URL such as s3://bucket/key. A file never changes once it is there."""

    @property
    def file_system(self) -> AbstractFileSystem | None:
        """What DuckDB reads the files with; None where it does so by itself."""
        ...

    def draft(self, location: str) -> Path:
        """Local path to write a file to before `keep`; its folder is there."""
        ...

    def keep(self, draft: Path, location: str) -> int:
        """Make a finished draft the file at that location, whole and durable; bytes it has."""
        ...

    def remove(self, locations: Iterable[str]) -> int:
        """Delete files that nothing needs; returns how many. One that is gone already is no error."""
        ...

    def listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every file below a folder, by location: (location, time of its last change in s since 1970)."""
        ...
