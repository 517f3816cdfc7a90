"""The models on Athena: the same marts as DuckDB builds from the same lake, read back by the same reports."""

from contextlib import closing
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from shopstream.alerting.verdicts import VERDICT_SCHEMA
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.models import Bots, ReportName
from shopstream.models.athena import build_on_athena
from shopstream.models.marts_file import MARTS
from shopstream.models.reports import report
from shopstream.models.runner import build
from standins import athena

pytestmark = [pytest.mark.aws, pytest.mark.filterwarnings("ignore:Delete operation did not match:UserWarning")]


@pytest.fixture
def lake(aws_env, moto, make_bucket, fresh_name):
    aws_env(default=moto)
    glue = GlueSettings(warehouse=f"s3://{make_bucket()}/lake", database=fresh_name("shop").replace("-", "_"))
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lakehouse:
        yield lakehouse


@pytest.fixture
def engine(lake, aws_env):  # noqa: ARG001  its Glue and S3 are the lake's
    with athena.running() as (address, engine):
        aws_env(athena=address)
        yield engine


def verdict(kind, actor, start, hours, word="bot"):
    start = datetime.fromisoformat(start + "+00:00")
    return {
        "actor_kind": kind,
        "actor": actor,
        "verdict": word,
        "from_time": start,
        "until_time": start + timedelta(hours=hours),
        "why": "too regular",
        "rule": "user_regular",
        "incident_id": "i1",
    }


BOTS = pa.Table.from_pylist(
    [
        verdict("user_id", "4", "2019-11-01 23:00:00", 2),
        verdict("user_session", "robot", "2019-11-01 20:00:00", 1),
        verdict("ip_net", "203.0.113.0/24", "2019-11-02 10:00:00", 1),
        verdict("agent_hash", "x", "2019-11-02 10:00:00", 1),
        verdict("user_id", "1", "2019-11-01 08:00:00", 1),
        verdict("user_id", "1", "2019-11-01 08:00:00", 1, word="human"),
    ],
    schema=VERDICT_SCHEMA,
)


@pytest.fixture
def many_events(shop_events, event):
    return [
        *shop_events,
        event(20, "2019-11-01 20:10:00", "cart", 9, session="robot"),
        event(21, "2019-11-02 10:20:00", "view", 8) | {"ip": "203.0.113.77", "user_agent": "curl/8"},
        event(22, "2019-11-02 10:21:00", "purchase", 8, price="3.99") | {"ip": "2001:DB8:1::1"},
    ]


def rows_of(path, mart):
    with duckdb.connect() as connection:
        connection.execute(f"attach '{path}' as reports (read_only)")
        described = connection.execute(f"describe reports.main.{mart}").fetchall()
        columns = [(name, kind) for name, kind, *_ in described if name != "built_at_utc"]
        names = ", ".join(name for name, _ in columns)
        return columns, connection.execute(f"select {names} from reports.main.{mart} order by all").fetchall()


def approximately(rows):
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in rows]


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Almaty"])
@pytest.mark.usefixtures("engine")
def test_marts_of_athena_are_those_of_duckdb(lake, tmp_path, many_events, append, timezone):
    append(lake, many_events)
    for folder in ("duckdb", "athena"):
        (tmp_path / folder).mkdir()
    files = {folder: tmp_path / folder / "reports.duckdb" for folder in ("duckdb", "athena")}
    ours = build(lake, files["duckdb"], timezone, verdicts=BOTS)
    theirs = build_on_athena(lake, files["athena"], timezone, verdicts=BOTS, poll_s=0.01)
    assert theirs.rows == ours.rows
    assert (theirs.events, theirs.bot_events, theirs.duplicates) == (ours.events, ours.bot_events, ours.duplicates)
    assert theirs.bot_events == 3
    assert theirs.tests == ours.tests > 50
    for mart in MARTS:
        (columns, rows), (their_columns, their_rows) = (rows_of(files[name], mart) for name in ("duckdb", "athena"))
        assert their_columns == columns
        assert approximately(their_rows) == approximately(rows)
    for name in ReportName:
        for bots in Bots:
            left, right = (report(name, path, bots=bots) for path in files.values())
            assert (left.headline, left.rows) == (right.headline, right.rows)
