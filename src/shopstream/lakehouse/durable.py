"""A PyIceberg FileIO that forces every file it writes to the disk before the commit that names it."""

import os
from io import BufferedWriter, FileIO
from pathlib import Path

from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

__all__ = ["DurableFileIO", "sync_directory", "sync_file"]


def sync_directory(folder: Path) -> None:
    """Force a folder's list of files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Force a finished file and its name to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


class _SyncedStream(BufferedWriter):
    """A file that is on the disk once it is closed."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        super().__init__(FileIO(path, "w" if overwrite else "x"), buffer_size=1 << 20)

    def close(self) -> None:
        """Flush, sync, close."""
        if self.closed:
            return
        self.flush()
        os.fsync(self.fileno())
        super().close()
        sync_directory(self._path.parent)


class _DurableFile(PyArrowFile):
    """A local file whose writes are durable."""

    def create(self, overwrite: bool = False) -> _SyncedStream:
        """Open for writing.

        Raises:
            FileExistsError: it is there and `overwrite` is not set.
        """
        return _SyncedStream(Path(self._path), overwrite=overwrite)


class DurableFileIO(PyArrowFileIO):
    """PyIceberg's Arrow FileIO for local files, with durable writes; reads are the same."""

    def new_output(self, location: str) -> _DurableFile:
        """A file to write."""
        file = super().new_output(location)
        return _DurableFile(location=location, path=file._path, fs=file._filesystem)  # noqa: SLF001  its only way out
