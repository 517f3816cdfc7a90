"""Incidents on DynamoDB neither vanish nor double nor come apart, wherever their writer is killed."""

import random
from contextlib import closing
from dataclasses import replace

import pytest

from incident_desk import Desk, sqlite_desk
from recovery.incident_writer import END, NOTIFY, SETTINGS, TARGETS, detection, detections
from shopstream.clock import SystemClock
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.settings import DynamoSettings
from shopstream.incidents.verdicts import read_verdicts

pytestmark = pytest.mark.aws

CLOCK = SystemClock()


class KilledError(BaseException):
    """The process ends here."""


class Torn(DynamoIncidentStore):
    """A store whose process is killed before its n-th call that writes, or after it, which is before the next."""

    left = 1 << 30

    def _call(self, operation, action, **arguments):
        self._count(operation in {"put_item", "batch_write_item"})
        return super()._call(operation, action, **arguments)

    def _update(self, *arguments, **named):
        self._count(1)
        return super()._update(*arguments, **named)

    def _count(self, writes):
        if self.left <= 0 and writes:
            raise KilledError
        self.left -= writes


@pytest.fixture
def open_torn(dynamodb_local, aws_env, make_table):
    aws_env(dynamodb=dynamodb_local)

    def make():
        dynamo = DynamoSettings(table=make_table(indexed=True))
        return Desk(lambda: Torn(dynamo, SETTINGS.retention, CLOCK), SETTINGS, CLOCK, TARGETS, NOTIFY)

    return make


def seen(store):
    """All that people see; how often they are told may depend on what was known at the moment."""
    incidents = sorted(store.list(), key=lambda incident: incident.id)
    parts = [[replace(part, notifications=0) for part in store.parts(incident.id)] for incident in incidents]
    return [replace(incident, notifications=0) for incident in incidents], parts, read_verdicts(store).to_pylist()


def batches():
    """First two actors, each twice; then what joins the second's two incidents into one, and six others at once."""

    def burst(user, start_ms):
        return detection("user_burst", "owasp.oat-011", {"user_id": str(user)}, start_ms, final=True)[1]

    first = [burst(1, 0), burst(2, 0), burst(2, 45_000), burst(2, 46_000)]
    joined = [burst(2, 22_000), *(burst(user, 40_000) for user in range(3, 9))]
    return [(first, 5_000), (joined, 6_000), ([], 45_000), ([], 200_000)]


def test_killed_before_any_write_and_begun_again(open_torn, tmp_path):
    embedded = sqlite_desk(tmp_path / "embedded.db", SETTINGS, CLOCK, TARGETS, NOTIFY)
    for batch, watermark in batches():
        embedded.apply(batch, watermark)
    expected = seen(embedded)
    killed = 0
    for calls in range(1, 120, 2):
        with closing(open_torn()) as torn:
            torn._store.left = calls
            try:
                for batch, watermark in batches():
                    torn.apply(batch, watermark)
            except KilledError:
                killed += 1
            else:
                break
            torn.restart()
            for batch, watermark in batches():
                torn.apply(batch, watermark)
            assert seen(torn) == expected
            told = [(one.incident_id, one.severity, one.target) for one in torn.notifications()]
            assert len(told) == len(set(told))
    assert killed > 15, "the change is not large any more"


def test_any_batches_restarts_and_kills_give_what_the_embedded_store_gives(open_torn, tmp_path):
    stream = detections()
    embedded = sqlite_desk(tmp_path / "embedded.db", SETTINGS, CLOCK, TARGETS, NOTIFY)
    embedded.apply([made for _, made in stream], END)
    draw = random.Random(7)  # noqa: S311  no secret
    place = saved = starts = 0
    with closing(open_torn()) as torn:
        while place < len(stream):
            starts += 1
            torn.restart()
            torn._store.left = draw.randrange(20, 250)
            place = saved
            try:
                while place < len(stream):
                    until = min(len(stream), place + draw.randrange(1, 120))
                    moment = stream[until][0] - 1 if until < len(stream) else END
                    torn.apply([made for _, made in stream[place:until]], moment)
                    place = until
                    if draw.random() < 0.5:
                        torn.commit()
                        saved = place
            except KilledError:
                place = saved
        assert starts > 3
        assert seen(torn) == seen(embedded)
