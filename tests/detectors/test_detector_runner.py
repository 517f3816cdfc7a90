"""The runner hands over every bin once, in order, whatever the batches were."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_signal
from shopstream.detection.detection import Nature, Severity
from shopstream.detection.detector import BIN_MS, AlertTemplate, Detector
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.signals import UNWATCHED, Quiet, Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError, StateError

HOUR_MS = 3_600_000


def window(name, size_ms=BIN_MS, **changes):
    values = {"name": name, "kind": WindowKind.TUMBLING, "key": (), "size_ms": size_ms, "measures": {"n": "count(*)"}}
    return WindowDeclaration(**values | changes)


TEN = window("ten")


class Recorder(Detector):
    """Remembers what it was handed."""

    def __init__(self, name="recorder", windows=(TEN,), other_signals=()):
        self.id, self.windows, self.other_signals = name, windows, other_signals
        self.bins = []

    def observe(self, end_ms, signals):
        self.bins.append((end_ms, [(s.window, dict(s.key)) for s in signals]))
        return []

    def snapshot(self):
        return {"bins": self.bins}

    def restore(self, state):
        self.bins = [(end, [tuple(one) for one in signals]) for end, signals in state["bins"]]


class NextVersion(Recorder):
    version = 2


def test_bins_come_in_order_and_the_empty_ones_too():
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    runner.advance([make_signal("ten", 50_000), make_signal("ten", 20_000)], 75_000)
    assert [end for end, _ in recorder.bins] == [20_000, 30_000, 40_000, 50_000, 60_000, 70_000]
    assert [len(signals) for _, signals in recorder.bins] == [1, 0, 0, 1, 0, 0]


def test_nothing_is_handed_over_before_the_first_signal():
    recorder = Recorder()
    DetectorRunner([recorder]).advance([], 10 * HOUR_MS)
    assert recorder.bins == []


def test_signals_of_a_bin_are_ordered_by_window_and_key():
    recorder = Recorder(windows=(window("b", key=("user_id",)), window("a")))
    runner = DetectorRunner([recorder])
    signals = [
        make_signal("b", 20_000, {"user_id": 2}),
        make_signal("a", 20_000),
        make_signal("b", 20_000, {"user_id": 1}),
    ]
    runner.advance(signals, 20_000)
    assert recorder.bins == [(20_000, [("a", {}), ("b", {"user_id": 1}), ("b", {"user_id": 2})])]


def test_early_signals_and_those_of_others_are_left_out():
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    runner.advance(
        [make_signal("ten", 20_000, final=False), make_signal("a_rule", 20_000), make_signal("ten", 30_000)], 30_000
    )
    assert recorder.bins == [(30_000, [("ten", {})])]


def test_equal_windows_are_computed_once_and_read_by_each_under_its_own_name():
    first, second = Recorder("one", (window("mine"),)), Recorder("two", (window("yours"),))
    runner = DetectorRunner([first, second])
    assert [declaration.name for declaration in runner.declarations] == ["mine"]
    runner.advance([make_signal("mine", 20_000)], 20_000)
    assert first.bins == [(20_000, [("mine", {})])]
    assert second.bins == [(20_000, [("yours", {})])]


def test_signals_of_operators_are_read_by_name():
    recorder = Recorder(windows=(), other_signals=("looked_up",))
    DetectorRunner([recorder]).advance([make_signal("looked_up", 20_000)], 20_000)
    assert recorder.bins == [(20_000, [("looked_up", {})])]


@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        ([Recorder(), Recorder()], "each detector id once"),
        ([Recorder("a"), Recorder("b", (window("ten", size_ms=20_000),))], "a different window named ten"),
        ([Recorder(windows=(window("odd", size_ms=15_000),))], "multiple of 10000 ms"),
        ([Recorder(windows=(window("s", 0, kind=WindowKind.SESSION, gap_ms=1_000),))], "must be tumbling or sliding"),
    ],
)
def test_what_does_not_fit_together_is_named(detectors, message):
    with pytest.raises(RuleError, match=message):
        DetectorRunner(detectors)


def test_years_of_silence_cost_an_hour_a_bin():
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    years_ms = 3 * 365 * 24 * HOUR_MS
    runner.advance([make_signal("ten", BIN_MS), make_signal("ten", years_ms)], years_ms)
    ends = [end for end, _ in recorder.bins]
    assert ends == sorted(set(ends))
    assert len(ends) < 40_000
    assert ends[-1] == years_ms
    assert all(end % HOUR_MS == 0 for end in ends[10_000:-1])


def test_signals_of_processed_bins_are_counted_skipped_and_logged_once(caplog):
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    runner.advance([make_signal("ten", 20_000)], 60_000)
    runner.advance([make_signal("ten", 40_000), make_signal("ten", 70_000)], 70_000)
    assert runner.late_signals == 1
    assert [end for end, signals in recorder.bins if signals] == [20_000, 70_000]
    runner.advance([make_signal("ten", 50_000), make_signal("ten", 60_000)], 70_000)
    assert runner.late_signals == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped 1 signals, up to 30 s late" in caplog.text
    assert "(ten 1)" in caplog.text
    runner.advance([], 20 * 60_000)
    runner.advance([make_signal("ten", 50_000)], 20 * 60_000)
    assert len(caplog.records) == 2, "another stretch is another warning"


def test_what_the_clock_hands_over_is_taken_back_when_events_come():
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    runner.advance([make_signal("ten", 20_000)], 24_000, Quiet(28_000, 90_000))
    runner.advance([make_signal("ten", 30_000), make_signal("ten", 50_000)], 55_000)
    assert runner.late_signals == 0
    assert [(end, len(signals)) for end, signals in recorder.bins] == [
        *((20_000, 1), (30_000, 1)),
        *((40_000, 0), (50_000, 1)),
    ]


def test_the_clock_hands_over_nothing_before_the_bin_of_the_newest_event_is_over():
    watcher = Watcher()
    runner = DetectorRunner([watcher])
    assert runner.advance([make_signal("ten", 20_000)], 24_000, Quiet(28_000, 39_999)) == []
    assert seen(runner.advance([], 24_000, Quiet(28_000, 40_000))) == [40_000]
    assert seen(runner.advance([], 24_000, Quiet(28_000, 65_000))) == [50_000, 60_000]


def test_a_silence_found_by_the_clock_is_not_reported_again_by_events():
    runner = DetectorRunner([Watcher()])
    runner.advance([make_signal("ten", 20_000)], 24_000)
    assert seen(runner.advance([], 24_000, Quiet(28_000, 50_000))) == [40_000, 50_000]
    assert seen(runner.advance([make_signal("ten", 30_000), make_signal("ten", 80_000)], 80_000)) == [60_000, 70_000]


def test_a_snapshot_holds_nothing_that_only_the_clock_says():
    runner = DetectorRunner([Recorder()])
    runner.advance([make_signal("ten", 20_000)], 24_000)
    before = json.dumps(runner.snapshot())
    runner.advance([], 24_000, Quiet(28_000, 500_000))
    assert json.dumps(runner.snapshot()) == before


def test_time_between_history_and_live_events_is_not_handed_over():
    recorder = Recorder()
    runner = DetectorRunner([recorder])
    live_ms = 1_000 * 24 * HOUR_MS + 3_000
    runner.advance([make_signal("ten", 20_000)], 24_000)
    gap = Signal(UNWATCHED, {}, 15_000, live_ms - 5_000, 15_000, live_ms - 5_000, {}, final=True)
    runner.advance([gap], live_ms - 5_000)
    rest = replace(gap, end_ms=live_ms)
    runner.advance([rest, make_signal("ten", live_ms + 7_000)], live_ms + 20_000)
    assert recorder.bins[0] == (20_000, [("ten", {})])
    assert [end for end, _ in recorder.bins[1:]] == [live_ms + 7_000, live_ms + 17_000]


class Watcher(Recorder):
    """Tells of each empty bin."""

    other_signals = ()

    def observe(self, end_ms, signals):
        if signals:
            return []
        times = (end_ms - BIN_MS, end_ms)
        return [replace(FOUND, detection_id=str(end_ms), start_ms=times[0], end_ms=times[1])]


def seen(detections):
    return [one.end_ms for one in detections]


FOUND = AlertTemplate("watcher", "watcher-1", "Empty", (), Nature.FAULT, "no events").detection(
    Severity.LOW, {}, (0, BIN_MS), {}, {}
)


def test_a_detector_whose_snapshot_is_of_another_version_starts_afresh_and_is_named():
    runner = DetectorRunner([Recorder("kept"), Recorder("changed")])
    runner.advance([make_signal("ten", 20_000)], 20_000)
    other = DetectorRunner([Recorder("kept"), NextVersion("changed"), Recorder("new")])
    assert other.restore(json.loads(json.dumps(runner.snapshot()))) == ["changed", "new"]
    assert other.detectors[0].bins == [(20_000, [("ten", {})])]
    assert other.advance([], 30_000) == []
    assert other.detectors[1].bins == [(30_000, [])]


def test_state_that_is_none_is_named():
    with pytest.raises(StateError, match="next_ms"):
        DetectorRunner([Recorder()]).restore({"next_ms": "soon"})


@pytest.fixture(scope="module")
def episode(shop):
    return shop.minutes(150, flood=(60, 70), silence=(100, 103))


@pytest.fixture(scope="module")
def runner_of(shop):
    known = shop.baselines()
    return lambda: DetectorRunner(shipped_detectors(DetectionSettings(), known))


@pytest.fixture(scope="module")
def run(shop, episode, runner_of):
    """Detections of the episode, handed over in batches that end at some bins, with a restart after one of them."""

    def run(cuts, restart):
        runner, found, done = runner_of(), [], 0
        for number, cut in enumerate([*sorted(cuts), 10_000]):
            until_ms = shop.start_ms + cut * BIN_MS
            due = [one for one in episode[done:] if one.end_ms <= until_ms]
            done += len(due)
            found += runner.advance(due, min(until_ms, episode[-1].end_ms))
            if number == restart:
                state = json.loads(json.dumps(runner.snapshot()))
                runner = runner_of()
                assert runner.restore(state) == []
        return found

    return run


@settings(max_examples=12, deadline=None)
@given(pauses=st.lists(st.tuples(st.integers(0, 150 * 6), st.integers(0, 200_000)), min_size=1, max_size=12))
def test_however_long_events_are_on_their_way_nothing_is_lost(shop, episode, runner_of, whole, pauses):
    """The clock goes on at each cut by the pause; what comes then is what would have come without it."""
    runner, found, done, newest_ms = runner_of(), [], 0, 0
    for cut, pause_ms in [*sorted(pauses), (10_000, 0)]:
        until_ms = min(shop.start_ms + cut * BIN_MS, episode[-1].end_ms)
        due = [one for one in episode[done:] if one.end_ms <= until_ms]
        done += len(due)
        newest_ms = max([newest_ms, *(one.end_ms + BIN_MS - 1 for one in due)])
        found += runner.advance(due, until_ms)
        if pause_ms and newest_ms:
            found += runner.advance([], until_ms, Quiet(newest_ms, newest_ms + pause_ms))
    assert runner.late_signals == 0
    assert [one for one in found if one in whole] == whole
    assert {one.rule_id for one in found if one not in whole} <= {"silence"}


@pytest.fixture(scope="module")
def whole(runner_of, episode):
    return runner_of().advance(episode, episode[-1].end_ms)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 150 * 6), max_size=12), restart=st.integers(0, 12))
def test_batches_and_a_restart_change_nothing(run, whole, cuts, restart):
    assert {one.rule_id for one in whole} >= {"volume", "silence"}
    assert run(cuts, restart) == whole


def test_ids_of_detections_are_those_of_a_replay(runner_of, episode, whole):
    ids = [one.detection_id for one in whole]
    again = runner_of().advance(episode, episode[-1].end_ms)
    assert ids == [one.detection_id for one in again]
    assert len(set(ids)) == len(ids)


def test_detections_can_be_written_as_json(whole):
    for one in whole:
        json.dumps([dict(one.measures), dict(one.evidence)])
