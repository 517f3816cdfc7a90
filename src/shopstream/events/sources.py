"""Files of events: opens a path or URL, detects the format, and cuts the content into blocks of whole rows.

A block is a payload that `events.codec` decodes. The cuts depend only on the content, the block size and the offset,
so an interrupted reader gets the same blocks when it resumes.
"""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from shopstream.errors import ConfigurationError, PermanentError, RetryableError
from shopstream.events.schema import EVENT_FIELDS, WIRE_SCHEMA

BLOCK_BYTES = 24 << 20
"""Text of one block for bulk loads: some 190,000 events. The C library returns 32 MiB and more to the system whenever
it is freed, and allocating it again costs a tenth of a load."""

PARQUET_ROWS = 262_144
"""Rows of one block of a Parquet file for bulk loads."""

_SAMPLES = 64
_LONGEST_HEADER = 1 << 16
_SAMPLE_BYTES = 1 << 16
_SAME_TIME_BYTES = 4 << 20
_REMOTE_BLOCK_BYTES = 8 << 20
_TEXTS = frozenset(field.name for field in EVENT_FIELDS if field.arrow == pa.string())
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to load.

    Args:
        location: path or URL, as given.
        digest: identifies the content; see `identify`.
        size: bytes, as stored.
    """

    location: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class FileBlock:
    """Whole rows of a source.

    Args:
        payload: for the codec: CSV with the file's header, JSON lines or an Arrow IPC stream.
        header: the file's own header line, with its line end; empty if there is none.
        start: offset of the block: bytes of (unpacked) text, rows of Parquet.
        end: offset of the next block.
        consumed: bytes of the stored file read so far, for progress.
    """

    payload: bytes
    header: bytes
    start: int
    end: int
    consumed: int


def identify(location: str) -> Source:
    """Identify a file by its content: SHA-256 over its size and up to 64 samples of 64 KiB, evenly spread.

    Two files of the same size that differ only between the samples get the same digest.

    Raises:
        PermanentError: there is no such file, or it is empty or of an unknown kind.
    """
    with _opened(location, ahead=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        digest = sha256(str(size).encode())
        step = max(_SAMPLE_BYTES, size // _SAMPLES)
        for offset in [*range(0, size, step), max(0, size - _SAMPLE_BYTES)]:
            stream.seek(offset)
            digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(0)
        first = stream.read(64)
        if not first.strip() or (b"\0" in first and not first.startswith((_GZIP, _PARQUET))):
            raise PermanentError(
                f"expected CSV, CSV.gz, JSON lines or Parquet in {location}, got "
                f"{'nothing' if not first.strip() else 'something else'}; check the file"
            )
    return Source(location, digest.hexdigest(), size)


@contextmanager
def _opened(location: str, *, ahead: int = _REMOTE_BLOCK_BYTES) -> Iterator[BinaryIO]:
    """A seekable stream of a path or fsspec URL, as stored; a remote one fetches `ahead` bytes at once."""
    if "://" in location:
        with _Remote(location, ahead) as remote:
            yield cast("BinaryIO", remote)
        return
    try:
        with Path(location).open("rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise _missing(location) from error
    except (IsADirectoryError, PermissionError) as error:
        raise PermanentError(f"expected a readable file at {location}, got {error.strerror}; name a file") from error


def _missing(location: str) -> PermanentError:
    return PermanentError(f"expected a file at {location}, found none; check the path or URL")


class _Remote:
    """A file behind a URL; translates the errors of all file systems.

    Args:
        location: fsspec URL.
        ahead: bytes fetched ahead.
    """

    def __init__(self, location: str, ahead: int) -> None:
        self._location = location
        self._ahead = ahead
        self._stream: BinaryIO

    def __enter__(self) -> Self:
        with self._translated():
            files, path = fsspec.url_to_fs(self._location)
            options = {"block_size": self._ahead, "cache_type": "readahead"} if self._ahead else {"cache_type": "none"}
            self._stream = files.open(path, "rb", **options)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  closed, tell, seekable …
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        with self._translated():
            return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._translated():
            return self._stream.seek(offset, whence)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise _missing(self._location) from error
        except IsADirectoryError as error:
            raise PermanentError(f"expected a file at {self._location}, got a folder; name a file") from error
        except PermissionError as error:
            raise ConfigurationError(
                f"reading {self._location} is denied ({error}); grant it to the role in use (s3:GetObject and "
                "s3:ListBucket), and check credentials and the clock of this machine"
            ) from error
        except Exception as error:  # each file system has its own errors
            raise RetryableError(
                f"{self._location} cannot be read now ({error}); check the network and the credentials, then try again"
            ) from error


@contextmanager
def open_blocks(
    source: Source, start: int = 0, *, block_bytes: int | None = None, parquet_rows: int | None = None
) -> Iterator[Iterator[FileBlock]]:
    """Blocks from an offset on, which is 0 or the `end` of an earlier block of the same size.

    Args:
        source: from `identify`.
        start: offset of the first block.
        block_bytes: maximum text of a block; None: BLOCK_BYTES.
        parquet_rows: maximum rows of a Parquet block; None: PARQUET_ROWS.

    Raises:
        PermanentError: the file is damaged, or has no line end within a whole block.
    """
    size = block_bytes or BLOCK_BYTES
    with _opened(source.location) as stream:
        magic = stream.read(4)
        stream.seek(0)
        if magic.startswith(_PARQUET):
            yield _parquet_blocks(source, stream, start, parquet_rows or PARQUET_ROWS)
        elif magic.startswith(_GZIP):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield _text_blocks(source, cast("BinaryIO", unpacked), stream, start, size)
        else:
            yield _text_blocks(source, stream, stream, start, size)


def plan_blocks(source: Source, start: int = 0) -> Iterator[tuple[int, int | None]]:
    """The cuts of `open_blocks`, for parallel readers: (start, end) of each piece, in order.

    Of text, only the ends of blocks are read. A compressed file can only be read from its start, so it is one piece. Of
    Parquet, a piece is a row group, which may be several blocks. An end of None is the end of the file.

    Args:
        source: from `identify`.
        start: offset of the first block, as for `open_blocks`.

    Raises:
        PermanentError: the file is damaged, or has no line end within a whole block.
    """
    with _opened(source.location, ahead=0) as stream:
        magic = stream.read(4)
        stream.seek(0)
        if magic.startswith(_PARQUET):
            place, metadata = 0, pq.read_metadata(stream)
            for group in range(metadata.num_row_groups):
                end = place + metadata.row_group(group).num_rows
                if end > start:
                    yield max(place, start), end
                place = end
        elif magic.startswith(_GZIP):
            yield start, None
        else:
            _, header = _first_line(stream)
            place = max(start, header)
            while place < source.size:
                end = _end_of_block(stream, source, place)
                yield place, end
                place = end


def _end_of_block(stream: BinaryIO, source: Source, place: int) -> int:
    if source.size - place < BLOCK_BYTES:
        return source.size
    for length in (_SAME_TIME_BYTES + _LONGEST_HEADER, BLOCK_BYTES):
        skipped = max(0, BLOCK_BYTES - length)
        stream.seek(place + skipped)
        tail = b"".join(_read(stream, BLOCK_BYTES - skipped))
        if not skipped or tail.count(b"\n", _SAME_TIME_BYTES) > 1:  # enough for the same cut as in the whole block
            return place + _cut(tail, source, place, skipped)
    raise AssertionError("the second length is the whole block")


def _first_line(text: BinaryIO) -> tuple[bytes, int]:
    """The header without byte order mark (empty if there is none), and the offset of the first row."""
    first, end, _ = b"".join(_read(text, _LONGEST_HEADER)).partition(b"\n")
    if b"event_time" not in first or b"{" in first:
        return b"", 0
    return (first + end).removeprefix(_BYTE_ORDER_MARK), len(first + end)


def _text_blocks(source: Source, text: BinaryIO, stored: BinaryIO, start: int, size: int) -> Iterator[FileBlock]:
    try:
        header, rows_begin = _first_line(text)
        place = max(start, rows_begin)
        text.seek(place)
        carry = b""
        while True:
            block = b"".join([carry, *_read(text, size - len(carry))])
            if not block:
                return
            cut = len(block) if len(block) < size else _cut(block, source, place)
            rows, carry = memoryview(block)[:cut], block[cut:]  # a view, not a copy of tens of MiB
            if not (block[:1].isspace() and block[:cut].isspace()):
                yield FileBlock(b"".join([header, rows]), header, place, place + cut, stored.tell())
            place += cut
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise PermanentError(
            f"{source.location} cannot be read beyond byte {text.tell()}: {error}; fetch the whole file again: "
            "reading resumes where it stopped"
        ) from error


def _read(text: BinaryIO, size: int) -> Iterator[bytes]:
    """Read `size` bytes in pieces, fewer only at the end of the file."""
    while size and (piece := text.read(size)):
        yield piece
        size -= len(piece)


def _cut(block: bytes, source: Source, place: int, skipped: int = 0) -> int:
    """Offset at which a block, whose first bytes may have been skipped, is cut.

    It is a line end that keeps rows of the same time (and so duplicates) together.
    """
    end = block.rfind(b"\n") + 1
    if not end:
        raise PermanentError(
            f"expected lines in {source.location}, got none in {len(block)} bytes from byte {place} on; check the file"
        )
    last = block.rfind(b"\n", 0, end - 1) + 1
    time, comma, _ = block[last:end].partition(b",")
    if not comma or not last:
        return skipped + end
    earliest = skipped + block.find(b"\n" + time + b",", max(0, end - _SAME_TIME_BYTES), end)
    return earliest + 1 if earliest > max(skipped, (skipped + len(block)) // 2) else skipped + end


def _parquet_blocks(source: Source, stream: BinaryIO, start: int, batch_rows: int) -> Iterator[FileBlock]:
    try:
        metadata = pq.read_metadata(stream)
        # Texts repeat: keep the dictionaries of the file.
        texts = [f.name for f in metadata.schema.to_arrow_schema() if f.name in _TEXTS and f.type == pa.string()]
        with pq.ParquetFile(stream, metadata=metadata, read_dictionary=texts) as file:
            total = max(1, file.metadata.num_rows)
            names = [name for name in file.schema_arrow.names if name in WIRE_SCHEMA.names]
            if "event_time" not in names:
                raise PermanentError(
                    f"expected a column event_time in {source.location}, got {', '.join(file.schema_arrow.names)}; "
                    "use the column names of REES46"
                )
            place = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if place + rows <= start:
                    place += rows
                    continue
                for batch in file.iter_batches(batch_rows, row_groups=[group], columns=names):
                    if place >= start:
                        end = place + batch.num_rows
                        yield FileBlock(_ipc(batch), b"", place, end, source.size * end // total)
                    place += batch.num_rows
    except pa.ArrowException as error:
        raise PermanentError(f"{source.location} cannot be read as Parquet: {error}; fetch it again") from error


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
