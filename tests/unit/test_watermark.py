"""Watermarks: when event time counts as over, and which events are late."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shopstream.engine.watermark import BEGINNING, Watermarks

LATENESS = 5_000
IDLE = 10_000


def times(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def watermarks() -> Watermarks:
    return Watermarks(LATENESS, IDLE)


def test_nothing_seen_gives_no_watermark():
    assert watermarks().advance(0) == BEGINNING


def test_the_slowest_shard_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    assert marks.advance(0) == 45_000


def test_a_shard_known_but_without_events_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.at_tip("b", now_ms=0)
    assert marks.advance(now_ms=IDLE - 1) == BEGINNING


def test_an_expected_shard_holds_the_watermark():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.expect("child")
    assert marks.advance(now_ms=10 * IDLE) == BEGINNING


def test_a_shard_that_ended_with_its_last_events_is_left_out():
    marks = watermarks()
    marks.at_tip("parent", now_ms=0, ended=True)
    marks.observe("parent", times(50_000))
    marks.observe("child", times(100_000))
    assert marks.advance(now_ms=0) == 95_000


def test_an_idle_shard_is_left_out():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    marks.at_tip("b", now_ms=1_000)
    assert marks.advance(now_ms=1_000 + IDLE) == 95_000


def test_idleness_counts_from_the_first_empty_read():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.observe("b", times(50_000))
    marks.at_tip("b", now_ms=0)
    marks.at_tip("b", now_ms=IDLE - 1)
    assert marks.advance(now_ms=IDLE) == 95_000


def test_a_shard_that_wakes_holds_the_watermark_again():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.at_tip("b", now_ms=0)
    assert marks.advance(now_ms=IDLE) == 95_000
    marks.observe("b", times(96_000))
    marks.observe("a", times(200_000))
    assert marks.advance(now_ms=IDLE) == 95_000, "and never goes back"


def test_events_of_a_woken_shard_behind_the_watermark_are_late():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.at_tip("b", now_ms=0)
    marks.advance(now_ms=IDLE)
    assert marks.observe("b", times(94_999, 95_000)).tolist() == [True, False]


def test_an_ended_shard_is_left_out_at_once():
    marks = watermarks()
    marks.observe("parent", times(50_000))
    marks.at_tip("parent", now_ms=0, ended=True)
    marks.observe("child", times(100_000))
    assert marks.advance(now_ms=0) == 95_000


def test_when_all_shards_are_quiet_the_newest_event_decides():
    marks = watermarks()
    for shard_id, newest in (("a", 100_000), ("b", 50_000)):
        marks.observe(shard_id, times(newest))
        marks.at_tip(shard_id, now_ms=0)
    assert marks.advance(now_ms=0, all_idle_count=True) == 95_000


def test_an_event_exactly_at_the_bound_is_not_late():
    marks = watermarks()
    assert marks.observe("a", times(100_000, 95_000, 94_999)).tolist() == [False, False, True]


def test_restored_progress_calls_the_same_events_late():
    marks = watermarks()
    marks.observe("a", times(100_000))
    marks.advance(0)
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
        marks.advance(0)
        at, turn = at + size, turn + 1
    assert pieces == whole


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60_000)), max_size=40))
def test_the_watermark_never_goes_back(events):
    marks, before = watermarks(), BEGINNING
    for shard_id, moment in events:
        marks.observe(shard_id, times(moment))
        now = marks.advance(0)
        assert now >= before
        before = now
