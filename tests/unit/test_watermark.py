"""Watermarks: when event time counts as over, and which events are late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopstream.engine.watermark import BEGINNING, LIVE_MS, GoingLive, Watermarks

LATENESS = 5_000
IDLE = 10_000
DAY_MS = 86_400_000


def times(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def watermarks() -> Watermarks:
    return Watermarks(LATENESS, IDLE)


def test_nothing_seen_gives_no_watermark():
    assert watermarks().advance() == BEGINNING


def test_the_slowest_shard_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    assert marks.advance() == 45_000


def found_empty(marks: Watermarks, shard_id: str, from_ms: int, until_ms: int, every_ms: int = 1_000) -> None:
    """Poll a shard in vain."""
    for polled_ms in [*range(from_ms, until_ms, every_ms), until_ms]:
        marks.at_tip(shard_id, polled_ms)


def test_a_shard_known_but_without_events_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    found_empty(marks, "b", 0, IDLE - 1)
    assert marks.advance() == BEGINNING


def test_an_expected_shard_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.expect("child")
    found_empty(marks, "a", 0, 10 * IDLE)
    assert marks.advance() == BEGINNING


def test_a_shard_that_ended_with_its_last_events_is_left_out():
    marks = watermarks()
    marks.at_tip("parent", polled_ms=0, ended=True)
    marks.observe("parent", times(50_000))
    marks.observe("child", times(100_000))
    assert marks.advance() == 95_000


def test_an_idle_shard_is_left_out():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    found_empty(marks, "b", 1_000, 1_000 + IDLE)
    assert marks.advance() == 95_000


def test_idleness_counts_from_the_first_empty_read():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    found_empty(marks, "b", 0, IDLE - 1)
    assert marks.advance() == 45_000
    marks.at_tip("b", polled_ms=IDLE)
    assert marks.advance() == 95_000


def test_a_shard_is_not_idle_because_it_is_not_polled():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    marks.at_tip("b", polled_ms=0)
    marks.observe("a", times(200_000))
    assert marks.advance() == 45_000
    marks.at_tip("b", polled_ms=60 * IDLE)
    assert marks.advance() == 45_000, "one gap between polls is not enough, however long"


def test_a_clock_set_back_makes_no_shard_idle():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    for polled_ms in (10 * IDLE, 0, 10 * IDLE, 0):
        marks.at_tip("b", polled_ms)
    assert marks.advance() == 45_000
    assert Watermarks(LATENESS, IDLE).quiet() is None


def test_a_shard_with_more_to_read_is_not_idle():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    found_empty(marks, "b", 0, 2 * IDLE)
    marks.busy("b")
    assert marks.advance() == 45_000


def test_a_stream_is_quiet_as_long_as_the_shard_that_was_quiet_last():
    marks = watermarks()
    marks.at_tip("ended", polled_ms=0, ended=True)
    found_empty(marks, "a", 0, 9_000)
    assert marks.quiet() == (0, 9_000)
    marks.expect("b")
    assert marks.quiet() is None
    found_empty(marks, "b", 4_000, 9_000)
    assert marks.quiet() == (4_000, 5_000)
    marks.observe("a", times(100_000))
    assert marks.quiet() is None


@given(st.lists(st.integers(1, 4 * IDLE), max_size=30))
def test_quiet_is_no_longer_than_the_polls_lasted_and_no_gap_counts_more_than_half_of_the_timeout(gaps):
    marks, at_ms = watermarks(), 0
    marks.at_tip("a", at_ms)
    for gap in gaps:
        at_ms += gap
        marks.at_tip("a", at_ms)
    assert marks.quiet() == (0, sum(min(gap, IDLE // 2) for gap in gaps))


def test_a_shard_that_wakes_holds_the_watermark_again():
    marks = watermarks()
    marks.observe("a", times(100_000))
    found_empty(marks, "b", 0, IDLE)
    assert marks.advance() == 95_000
    marks.observe("b", times(96_000))
    marks.observe("a", times(200_000))
    assert marks.advance() == 95_000, "and never goes back"


def test_events_of_a_woken_shard_behind_the_watermark_are_late():
    marks = watermarks()
    marks.observe("a", times(100_000))
    found_empty(marks, "b", 0, IDLE)
    marks.advance()
    assert marks.observe("b", times(94_999, 95_000)).tolist() == [True, False]


def test_an_ended_shard_is_left_out_at_once():
    marks = watermarks()
    marks.observe("parent", times(50_000))
    marks.at_tip("parent", polled_ms=0, ended=True)
    marks.observe("child", times(100_000))
    assert marks.advance() == 95_000


def test_when_all_shards_are_quiet_the_newest_event_decides():
    marks = watermarks()
    for shard_id, newest in (("a", 100_000), ("b", 50_000)):
        marks.observe(shard_id, times(newest))
        marks.at_tip(shard_id, polled_ms=0)
    assert marks.advance(all_idle_count=True) == 95_000


def test_an_event_exactly_at_the_bound_is_not_late():
    marks = watermarks()
    assert marks.observe("a", times(100_000, 95_000, 94_999)).tolist() == [False, False, True]


def test_restored_progress_calls_the_same_events_late():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.advance()
    restored = watermarks()
    restored.restore(marks.current_ms, marks.newest())
    assert restored.observe("a", times(94_999, 95_001)).tolist() == [True, False]


@given(
    shard=st.lists(st.integers(0, 60_000), max_size=40),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
def test_which_events_are_late_does_not_depend_on_batches(shard, cuts):
    whole = watermarks().observe("a", times(*shard)).tolist()
    marks, pieces, at, turn = watermarks(), [], 0, 0
    while at < len(shard):
        size = cuts[turn % len(cuts)]
        pieces += marks.observe("a", times(*shard[at : at + size])).tolist()
        marks.advance()
        at, turn = at + size, turn + 1
    assert pieces == whole


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60_000)), max_size=40))
def test_the_watermark_never_goes_back(events):
    marks, before = watermarks(), BEGINNING
    for shard_id, moment in events:
        marks.observe(shard_id, times(moment))
        now = marks.advance()
        assert now >= before
        before = now


def going_live(*events: tuple[int, int]) -> GoingLive:
    """After events of (event time, arrival)."""
    going = GoingLive()
    for event, arrival in events:
        going.observe(times(event), times(arrival))
    return going


NOW = 1_000 * LIVE_MS


def test_the_gap_between_history_and_live_events_is_reported_up_to_the_watermark():
    going = going_live((1_000, NOW), (2_000, NOW), (NOW + 5, NOW + 6), (NOW + 3, NOW + 7))
    assert going.passed(2_000) is None
    assert going.passed(NOW - 10) == (2_000, NOW - 10)
    assert going.passed(NOW - 10) is None, "the watermark has not moved"
    assert going.passed(NOW + 60) == (2_000, NOW + 3)
    assert going.passed(NOW + LIVE_MS) is None, "it is over"


def test_a_pause_between_live_events_is_watched():
    assert going_live((NOW, NOW), (NOW + 20 * LIVE_MS, NOW + 20 * LIVE_MS)).passed(NOW + 20 * LIVE_MS) is None


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_what_lies_between_two_histories_is_reported(size):
    first, second = 1_000, 20 * DAY_MS
    shards = [first, first + 20, second + 3, first + 10, second, second + 9]
    going = GoingLive()
    for place in range(0, len(shards), size):
        part = shards[place : place + size]
        going.observe(times(*part), times(*[second + DAY_MS] * len(part)))
    assert going.passed(second + 1) == (first + 20, second)
    assert going.passed(second + DAY_MS) is None, "it is over"


def test_a_pause_inside_a_history_is_watched():
    assert going_live((1_000, NOW), (50 * LIVE_MS, NOW)).passed(50 * LIVE_MS) is None


def test_live_events_that_continue_where_the_history_ended_leave_nothing_out():
    end = NOW - LIVE_MS - 1
    assert going_live((end, NOW), (end + 10, NOW), (NOW, NOW)).passed(NOW) is None


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 10 * LIVE_MS), st.just(NOW)),
            st.integers(NOW, NOW + LIVE_MS).map(lambda moment: (moment, moment + 5)),
        ),
        max_size=20,
    ),
    size=st.integers(1, 5),
)
def test_where_history_ends_does_not_depend_on_batches(events, size):
    going = GoingLive()
    for first in range(0, len(events), size):
        part = events[first : first + size]
        going.observe(times(*(event for event, _ in part)), times(*(arrival for _, arrival in part)))
    assert going.passed(NOW + 2 * LIVE_MS) == going_live(*events).passed(NOW + 2 * LIVE_MS)
