"""The order in which incidents are recorded: a crash before or after each step changes nothing in the end."""

from dataclasses import replace
from datetime import timedelta

import pytest

from factories import make_detection
from incident_desk import Desk, sqlite_desk
from shopstream.clock import ManualClock
from shopstream.errors import StateError
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.settings import IncidentSettings, NotifySettings

HOUR = 3_600_000
SETTINGS = IncidentSettings(retention=timedelta(hours=8))
NOTIFY = NotifySettings(hold=timedelta(0))
BATCHES = [
    ([make_detection(0), make_detection(0, {"user_id": "8"})], 10_000),
    ([make_detection(1_000)], 11_000),
    ([make_detection(135_000), make_detection(140_000, {"ip": "192.0.2.1"}, rule="ip_rate", tags=())], 150_000),
    ([make_detection(70_000)], 151_000),  # joins two incidents of one user
    ([], HOUR),
    ([make_detection(2 * HOUR)], 2 * HOUR),
    ([make_detection(20 * HOUR, {"user_id": "9"})], 20 * HOUR),  # retention forgets all but this
]


class KilledError(BaseException):
    """The process ends here."""


class Mortal(EmbeddedIncidentStore):
    """Is killed before or after the n-th call of a method."""

    victim, when, left = "", "before", 0

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name != Mortal.victim:
            return found

        def call(*arguments, **named):
            Mortal.left -= 1
            if Mortal.left == 0 and Mortal.when == "before":
                raise KilledError
            answer = found(*arguments, **named)
            if Mortal.left == 0:
                raise KilledError
            return answer

        return call


def seen(desk):
    found = [replace(one, notifications=0) for one in desk.list()]
    return found, [desk.parts(one.id) for one in found]


def test_incidents_of_the_checkpoint_come_back_when_the_store_is_lost(tmp_path, caplog):
    paths = [tmp_path / "first.db"]
    desk = Desk(lambda: EmbeddedIncidentStore(paths[-1], ManualClock(5_000)), SETTINGS)
    desk.apply(*BATCHES[0])
    before = seen(desk)
    desk.commit()
    paths.append(tmp_path / "second.db")
    desk.restart()
    desk.apply([], 10_000)
    assert seen(desk) == before
    assert "lacks 2 incidents of the checkpoint" in caplog.text


def test_a_store_that_is_ahead_of_the_checkpoint_is_refused_with_the_remedy(tmp_path):
    desk = sqlite_desk(tmp_path / "i.db", SETTINGS)
    desk.apply(*BATCHES[0])
    desk.commit()
    older = desk._saved
    for start_ms in (1_000, 2_000, 3_000):
        desk.apply([make_detection(start_ms)], start_ms + 10_000)
        desk.commit()
    desk._saved = older
    with pytest.raises(StateError, match="restore both from one copy, or move the incident store away"):
        desk.restart()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "times"), [("last_ordinals", 4), ("statuses", 4), ("put", 6), ("forget", 2)], ids=str)
def test_a_kill_around_this_step_changes_nothing(tmp_path, monkeypatch, step, times, when):
    whole = sqlite_desk(tmp_path / "whole.db", SETTINGS, targets=("a",), notify=NOTIFY)
    for batch, watermark in BATCHES:
        whole.apply(batch, watermark)
    for nth in range(1, times + 1):
        path, clock = tmp_path / f"{nth}.db", ManualClock(5_000)
        desk = Desk(lambda path=path, clock=clock: Mortal(path, clock), SETTINGS, clock, ("a",), NOTIFY)
        for name, value in (("victim", step), ("when", when), ("left", nth)):
            monkeypatch.setattr(Mortal, name, value)
        place = saved = 0
        while place < len(BATCHES):
            try:
                desk.apply(*BATCHES[place])
                place += 1
                if place % 2:
                    desk.commit()
                    saved = place
            except KilledError:
                desk.restart()
                place = saved
        assert Mortal.left <= 0, "it was killed"
        assert seen(desk) == seen(whole)
        told = [(one.incident_id, one.severity) for one in desk.notifications()]
        assert sorted(told) == sorted((one.incident_id, one.severity) for one in whole.notifications())
