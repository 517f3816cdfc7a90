"""Incidents on DynamoDB neither vanish nor double nor come apart, wherever a writer is killed and whoever writes."""

import random
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.incident_writer import END, SETTINGS, TARGETS, detection, detections
from shopstream.clock import SystemClock
from shopstream.incidents import replica, table
from shopstream.incidents.aws import DynamoIncidentStore, DynamoTable, pull_incidents
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.queries import read_episodes, read_incidents
from shopstream.incidents.replicated import ReplicatedIncidentStore
from shopstream.incidents.settings import DynamoSettings
from shopstream.incidents.verdicts import read_verdicts
from shopstream.notify.outbox import read_notifications

pytestmark = pytest.mark.aws

CLOCK = SystemClock()
WRITER = Path(__file__).with_name("incident_process.py")


class KilledError(BaseException):
    """The process ends here."""


class Torn:
    """A table whose user is killed before its n-th call that writes, or after it, which is before the next."""

    def __init__(self, inner, calls):
        self._inner = inner
        self._left = calls

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def write(self, operations):
        self._call(self._inner.write, operations)

    def put(self, items):
        self._call(self._inner.put, items)

    def _call(self, method, argument):
        if self._left == 0:
            raise KilledError
        self._left -= 1
        method(argument)


@pytest.fixture
def dynamo(dynamodb_local, aws_env, make_table):
    aws_env(dynamodb=dynamodb_local)
    return DynamoSettings(table=make_table(indexed=True))


@pytest.fixture
def small_transactions(monkeypatch):
    """What takes more than eight items is a large change."""
    monkeypatch.setattr(table, "MAX_OPERATIONS", 10)
    monkeypatch.setattr(replica, "_LIST_EVERY", 3)


def seen(path):
    """All that people see; how often they are told may depend on what was known at the moment."""
    incidents = sorted(read_incidents(path), key=lambda incident: incident.id)
    parts = [read_episodes(path, incident.id) for incident in incidents]
    return [replace(incident, notifications=0) for incident in incidents], parts, read_verdicts(path).to_pylist()


def seen_in_table(dynamo, path):
    pull_incidents(SETTINGS, dynamo, CLOCK, path)
    return seen(path)


def batches():
    """First two actors, each twice; then what joins the second's two incidents into one, and six others at once."""

    def burst(user, start_ms):
        return detection("user_burst", "owasp.oat-011", {"user_id": str(user)}, start_ms, final=True)[1]

    first = [burst(1, 0), burst(2, 0), burst(2, 45_000), burst(2, 46_000)]
    joined = [burst(2, 22_000), *(burst(user, 40_000) for user in range(3, 9))]
    return [(first, 5_000), (joined, 6_000), ([], 45_000), ([], 200_000)]


@pytest.mark.usefixtures("dynamo", "small_transactions")
def test_killed_before_any_write_of_a_large_change(make_table, tmp_path):
    with closing(EmbeddedIncidentStore(tmp_path / "embedded.db", SETTINGS, CLOCK, TARGETS)) as embedded:
        for batch, watermark in batches():
            embedded.apply(batch, watermark)
    expected = seen(tmp_path / "embedded.db")
    killed = 0
    for calls in range(40):
        place = DynamoSettings(table=make_table(indexed=True))
        folder = tmp_path / str(calls)
        torn = Torn(DynamoTable(place.table, CLOCK), calls)
        try:
            store = ReplicatedIncidentStore(torn, SETTINGS, CLOCK, TARGETS, folder / "torn.db")
            for batch, watermark in batches():
                store.apply(batch, watermark)
        except KilledError:
            killed += 1
        else:
            break
        pull_incidents(SETTINGS, place, CLOCK, folder / "reader.db")  # of whatever there is
        with closing(DynamoIncidentStore(SETTINGS, place, CLOCK, TARGETS, working_copy=folder / "b.db")) as after:
            for batch, watermark in batches():
                after.apply(batch, watermark)
        assert seen_in_table(place, folder / "reader.db") == expected
        assert seen_in_table(place, folder / "new.db") == expected
        assert seen(folder / "b.db") == expected
        told = [(one.reference, one.target) for one in read_notifications(folder / "new.db")]
        assert len(told) == len(set(told))
    assert killed > 15, "the change is not large any more"


@pytest.mark.usefixtures("small_transactions")
def test_any_batches_restarts_and_kills_give_what_the_embedded_store_gives(dynamo, tmp_path):
    stream = detections()
    with closing(EmbeddedIncidentStore(tmp_path / "embedded.db", SETTINGS, CLOCK, TARGETS)) as embedded:
        embedded.apply([made for _, made in stream], END)
    draw = random.Random(7)  # noqa: S311  no secret
    place = saved = starts = 0
    while place < len(stream):
        starts += 1
        calls = draw.randrange(1, 90)
        torn = Torn(DynamoTable(dynamo.table, CLOCK), calls)
        copy = tmp_path / f"{starts if draw.random() < 0.7 else 0}.db"  # some find a copy that is older than the table
        place = saved
        try:
            store = ReplicatedIncidentStore(torn, SETTINGS, CLOCK, TARGETS, copy)
            while place < len(stream):
                until = min(len(stream), place + draw.randrange(1, 120))
                moment = stream[until][0] - 1 if until < len(stream) else END
                store.apply([made for _, made in stream[place:until]], moment)
                place = until
                saved = place if draw.random() < 0.5 else saved
        except KilledError:
            place = saved
    assert starts > 3
    assert seen_in_table(dynamo, tmp_path / "reader.db") == seen(tmp_path / "embedded.db")


def test_two_processes_that_write_at_once_lose_nothing(dynamo, tmp_path):
    streams = [(0, 12), (6, 18)]  # users; some are both's
    processes = [
        subprocess.Popen([sys.executable, WRITER, dynamo.table, tmp_path / f"{first}.db", str(first), str(last)])
        for first, last in streams
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    with closing(EmbeddedIncidentStore(tmp_path / "embedded.db", SETTINGS, CLOCK, TARGETS)) as embedded:
        for start_ms in range(0, 10_000, 1_000):
            for user in range(18):
                key = {"user_id": str(user)}
                embedded.apply([detection("user_burst", "owasp.oat-011", key, start_ms, final=True)[1]], 0)
    assert seen_in_table(dynamo, tmp_path / "reader.db") == seen(tmp_path / "embedded.db")
