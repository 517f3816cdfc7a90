"""Adapters under test. A new adapter registers one factory here; the suites stay as they are."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from shopstream.clock import Clock, ManualClock, SystemClock
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.ports import IncidentStore
from shopstream.incidents.settings import DynamoSettings, IncidentSettings
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import Lakehouse
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.stream.aws import Pace
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import ConsumerPositions, StreamReader, StreamWriter
from shopstream.stream.settings import StreamSettings
from standins.reshaping import ReshapingStream


@dataclass(frozen=True)
class StreamUnderTest:
    """An adapter's ports; `clock` is the stream's own: sleeping on it lets the stream's time pass."""

    writer: StreamWriter
    reader: StreamReader
    admin: EmbeddedStream | ReshapingStream
    consumers: ConsumerPositions
    clock: Clock


NewStream = Callable[[int], str]
"""Makes a stream on a stand-in; its name."""

StreamFactory = Callable[[pytest.FixtureRequest, NewStream, int], AbstractContextManager[StreamUnderTest]]


@contextmanager
def embedded_stream(request: pytest.FixtureRequest, _new_stream: NewStream, shards: int) -> Iterator[StreamUnderTest]:
    folder = request.getfixturevalue("tmp_path")
    clock = ManualClock(1_572_566_400_000)
    with EmbeddedStream.open(folder / "stream.db", StreamSettings(shards=shards), clock) as stream:
        yield StreamUnderTest(stream, stream, stream, stream, clock)


def kinesis_stream(standin: str) -> StreamFactory:
    """A stream on a stand-in of Kinesis, its consumers on DynamoDB Local; both know no clock but the machine's.

    Kinesis itself would take five reads a second and shard; stand-ins take more.
    """

    @contextmanager
    def open_stream(request: pytest.FixtureRequest, new_stream: NewStream, shards: int) -> Iterator[StreamUnderTest]:
        server, dynamodb = (request.getfixturevalue(name) for name in (standin, "dynamodb_local"))
        request.getfixturevalue("aws_env")(kinesis=server, dynamodb=dynamodb)
        table = request.getfixturevalue("make_table")()
        clock, pace = SystemClock(), Pace(timedelta(milliseconds=1), timedelta(milliseconds=5))
        with ReshapingStream(new_stream(shards), table, clock, pace=pace) as stream:
            yield StreamUnderTest(stream, stream, stream, stream, clock)

    return open_stream


STREAMS: dict[str, StreamFactory] = {
    "embedded": embedded_stream,
    "kinesis-on-kinesalite": kinesis_stream("kinesalite"),
    "kinesis-on-kinesis-local": kinesis_stream("kinesis_local"),
}
"""Name → an empty, ready stream of so many shards with equal hash ranges."""


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.aws] if "kinesis" in name else []) for name in sorted(STREAMS)]
)
def make_stream(request, make_stream) -> Iterator[Callable[[int], StreamUnderTest]]:
    factory = STREAMS[request.param]
    with ExitStack() as stack:
        yield lambda shards: stack.enter_context(factory(request, make_stream, shards))


@pytest.fixture
def stream(make_stream) -> StreamUnderTest:
    return make_stream(4)


LakehouseFactory = Callable[[pytest.FixtureRequest, Path], Callable[[], Lakehouse]]


def embedded_lakehouse(_request, folder):
    return lambda: EmbeddedLakehouse(folder / "lake")


def aws_lakehouse(request, _folder):
    request.getfixturevalue("aws_env")(default=request.getfixturevalue("moto"))
    warehouse = f"s3://{request.getfixturevalue('make_bucket')()}/lake"
    database = request.getfixturevalue("fresh_name")("lake").replace("-", "_")
    return lambda: AwsLakehouse(LakehouseSettings(), GlueSettings(warehouse=warehouse, database=database))


LAKEHOUSES: dict[str, LakehouseFactory] = {"embedded": embedded_lakehouse, "aws": aws_lakehouse}
"""Name → opens a lakehouse: empty at first, the same one when asked again, as another process would open it."""


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.aws if name == "aws" else ()) for name in LAKEHOUSES])
def open_lakehouse(request, tmp_path) -> Callable[[], Lakehouse]:
    return LAKEHOUSES[request.param](request, tmp_path)


@pytest.fixture
def lakehouse(open_lakehouse) -> Lakehouse:
    return open_lakehouse()


OpenIncidents = Callable[[], IncidentStore]
IncidentsFactory = Callable[[pytest.FixtureRequest, Path, ManualClock], OpenIncidents]


def embedded_incidents(_request, folder, clock):
    return lambda: EmbeddedIncidentStore(folder / "incidents.db", clock)


def dynamo_incidents(request, _folder, clock):
    request.getfixturevalue("aws_env")(dynamodb=request.getfixturevalue("dynamodb_local"))
    table = DynamoSettings(table=request.getfixturevalue("make_table")(indexed=True))
    return lambda: DynamoIncidentStore(table, IncidentSettings().retention, clock)


INCIDENTS: dict[str, IncidentsFactory] = {"embedded": embedded_incidents, "dynamodb": dynamo_incidents}
"""Name → opens a store: without incidents at first, the same one when asked again, as another process would open it."""


@pytest.fixture
def incident_clock() -> ManualClock:
    return ManualClock(1_795_000_000_000)


@pytest.fixture(params=[pytest.param(name, marks=[] if name == "embedded" else pytest.mark.aws) for name in INCIDENTS])
def open_incidents(request, tmp_path, incident_clock) -> OpenIncidents:
    return INCIDENTS[request.param](request, tmp_path, incident_clock)
