"""Adapters under test. A new adapter registers one factory here; the suites stay as they are."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shopstream.clock import Clock, ManualClock
from shopstream.lakehouse import Lakehouse
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.stream import (
    ConsumerPositions,
    EmbeddedStream,
    StreamAdmin,
    StreamReader,
    StreamSettings,
    StreamWriter,
)


@dataclass(frozen=True)
class StreamUnderTest:
    """An adapter's ports; `clock` is the stream's own: sleeping on it lets the stream's time pass."""

    writer: StreamWriter
    reader: StreamReader
    admin: StreamAdmin
    consumers: ConsumerPositions
    clock: Clock


StreamFactory = Callable[[Path, int], AbstractContextManager[StreamUnderTest]]


@contextmanager
def embedded_stream(folder: Path, shards: int) -> Iterator[StreamUnderTest]:
    clock = ManualClock(1_572_566_400_000)
    with EmbeddedStream.open(folder / "stream.db", StreamSettings(shards=shards), clock) as stream:
        yield StreamUnderTest(stream, stream, stream, stream, clock)


STREAMS: dict[str, StreamFactory] = {"embedded": embedded_stream}
"""Name → an empty, ready stream of so many shards with equal hash ranges."""


@pytest.fixture(params=sorted(STREAMS))
def make_stream(request, tmp_path) -> Iterator[Callable[[int], StreamUnderTest]]:
    factory = STREAMS[request.param]
    with ExitStack() as stack:
        yield lambda shards: stack.enter_context(factory(tmp_path, shards))


@pytest.fixture
def stream(make_stream) -> StreamUnderTest:
    return make_stream(4)


LakehouseFactory = Callable[[Path], Lakehouse]

LAKEHOUSES: dict[str, LakehouseFactory] = {"embedded": lambda folder: EmbeddedLakehouse(folder / "lake")}
"""Name → the lakehouse of a folder: empty at first, the same one when asked again, as another process would open it."""


@pytest.fixture(params=sorted(LAKEHOUSES))
def open_lakehouse(request, tmp_path) -> Callable[[], Lakehouse]:
    return lambda: LAKEHOUSES[request.param](tmp_path)


@pytest.fixture
def lakehouse(open_lakehouse) -> Lakehouse:
    return open_lakehouse()
