"""Space-Saving keeps its bound, and share histories are never too low."""

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shopstream.detection.detectors.coordination import ShareQuantiles, SpaceSaving

KEYS = st.sampled_from("abcdefghijklmnop")
OFFERS = st.lists(st.tuples(KEYS, st.integers(1, 50)), max_size=200)
MINUTE_MS = 60_000


def sketch_of(offers, capacity):
    sketch, truth = SpaceSaving(capacity), Counter()
    for key, weight in offers:
        sketch.offer(key, weight)
        truth[key] += weight
    return sketch, truth


@given(OFFERS, st.integers(1, 12))
def test_an_estimate_is_never_low_and_at_most_a_share_of_the_total_high(offers, capacity):
    sketch, truth = sketch_of(offers, capacity)
    for key in "abcdefghijklmnop":
        assert truth[key] <= sketch.estimate(key) <= truth[key] + sketch.total / capacity


@given(OFFERS, st.integers(1, 12))
def test_a_key_above_its_share_of_the_total_is_kept(offers, capacity):
    sketch, truth = sketch_of(offers, capacity)
    assert all(key in sketch for key, weight in truth.items() if weight > sketch.total / capacity)
    assert len(sketch) <= capacity


@given(OFFERS)
def test_with_room_for_all_keys_counts_are_exact(offers):
    sketch, truth = sketch_of(offers, 16)
    assert len(sketch) == len(truth)
    assert {key: sketch.estimate(key) for key in truth} == dict(truth)


@given(OFFERS, OFFERS, st.integers(1, 6))
def test_a_restored_sketch_continues_as_the_first(before, after, capacity):
    first, _ = sketch_of(before, capacity)
    second = SpaceSaving(capacity)
    second.restore(json.loads(json.dumps(first.snapshot())))
    gone = [[sketch.offer(key, weight) for key, weight in after] for sketch in (first, second)]
    assert gone[0] == gone[1]
    assert first.snapshot() == second.snapshot()


@given(OFFERS, st.integers(1, 6))
def test_fading_scales_estimates_and_their_bound(offers, capacity):
    sketch, truth = sketch_of(offers, capacity)
    before = {key: sketch.estimate(key) for key in truth}
    sketch.fade(0.5)
    assert {key: sketch.estimate(key) for key in truth} == {key: weight / 2 for key, weight in before.items()}
    for key, weight in truth.items():
        assert weight / 2 <= sketch.estimate(key) <= weight / 2 + sketch.total / capacity


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=100), st.integers(0, 100), st.sampled_from([0.5, 0.9, 0.95]))
def test_a_quantile_is_exceeded_in_few_times_and_at_most_a_step_too_high(shares, absent, part):
    history = ShareQuantiles()
    for place, share in enumerate(shares):
        history.learn(place * MINUTE_MS, {"key": share})
    for place in range(absent):
        history.learn((len(shares) + place) * MINUTE_MS, {})
    found = history.quantile("key", part)
    times = len(shares) + absent
    assert sum(share > found for share in shares) <= times * (1 - part)
    if found:
        lower = found / 2**0.25 * (1 - 1e-9)
        assert sum(share > lower for share in shares) > times * (1 - part)


def test_a_share_of_eight_days_ago_is_forgotten():
    history = ShareQuantiles()
    history.learn(0, {"key": 0.5})
    for day in range(1, 9):
        history.learn(day * 86_400_000, {})
    assert (history.quantile("key", 0.05), len(history), history.times) == (0.0, 0, 7)


def test_a_history_survives_a_restart():
    history, again = ShareQuantiles(), ShareQuantiles()
    for minute in range(3_000):
        history.learn(minute * MINUTE_MS, {"a": 0.1, "b": 0.001 * (1 + minute % 7)})
    again.restore(json.loads(json.dumps(history.snapshot())))
    assert again.snapshot() == history.snapshot()
    assert again.quantile("b", 0.95) == history.quantile("b", 0.95)
