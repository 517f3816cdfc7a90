"""A stretch of a synthesis is exactly that part of the whole."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.errors import ConfigurationError
from shopstream.simulation.scenario_file import load_scenarios
from shopstream.simulation.synthesis import OutOfOrder, Synthesis, SynthesisSettings

START = datetime(2019, 11, 5, tzinfo=UTC)
SCENARIOS = {name: file for name, file in load_scenarios().items() if file.min_rate == 0 and name != "distributed"}
FIRST, LAST = START, START + timedelta(days=2)


def _cases(names, world, seed):
    for place, name in enumerate(names):
        yield SCENARIOS[name].draw(SCENARIOS[name].chance(seed, place), START, world)


def _plain(batches):
    tables = list(batches)
    schema = pa.schema(
        [(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in tables[0].schema]
    )
    return pa.concat_tables(table.cast(schema) for table in tables).combine_chunks()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(1_000, 1_005),
    names=st.lists(st.sampled_from(sorted(SCENARIOS)), max_size=3),
    disorder=st.none() | st.builds(OutOfOrder, st.floats(0, 1), st.floats(0.5, 4_000)),
    tracker=st.booleans(),
    edges=st.lists(st.integers(0, 2 * 86_400), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_a_slice_equals_the_filter_of_the_whole(seed, names, disorder, tracker, edges):
    options = SynthesisSettings(days=2, events=8_000, products=1_000, seed=seed, tracker=tracker, out_of_order=disorder)
    cases = tuple(_cases(names, options.world(), seed))
    laid = SynthesisSettings(
        days=2, events=8_000, products=1_000, seed=seed, tracker=tracker, out_of_order=disorder, scenarios=cases
    )
    begin, until = (START + timedelta(seconds=second) for second in edges)
    whole = _plain(Synthesis(laid).batches())
    times = whole["event_time"]
    wanted = whole.filter(pc.and_(pc.greater_equal(times, begin), pc.less(times, until)))
    part = Synthesis(laid, between=(begin, until))
    batches = list(part.batches())
    assert sum(batch.num_rows for batch in batches) == wanted.num_rows
    if batches:
        assert _plain(batches).equals(wanted)
    else:
        assert wanted.num_rows == 0
    assert part.truth()["events"] == wanted.num_rows


def test_events_and_truth_of_slices_add_up_to_the_whole():
    options = SynthesisSettings(days=2, events=20_000, products=1_000, seed=1_007)
    cases = tuple(_cases(["site_flood", "hoarding", "outage_recovery"], options.world(), 1_007))
    laid = SynthesisSettings(days=2, events=20_000, products=1_000, seed=1_007, scenarios=cases)
    whole = Synthesis(laid)
    total = sum(batch.num_rows for batch in whole.batches())
    edges = [START + timedelta(hours=hour) for hour in (0, 7, 15, 15.5, 33, 48)]
    counts, events = 0, np.zeros(len(whole.ground_truth()), np.int64)
    for begin, until in pairwise(edges):
        piece = Synthesis(laid, between=(begin, until))
        counts += sum(batch.num_rows for batch in piece.batches())
        events += [truth.events for truth in piece.ground_truth()]
    assert counts == total
    assert events.tolist() == [truth.events for truth in whole.ground_truth()]


def test_a_slice_does_not_generate_the_rest(monkeypatch):
    made = []
    options = SynthesisSettings(days=14, events=14 * 20_000, products=1_000, seed=1_001)
    synthesis = Synthesis(options, between=(START + timedelta(days=9, hours=10), START + timedelta(days=9, hours=11)))
    shoppers = synthesis._traffic._shoppers
    events = shoppers.events

    def spy(span, *rest):
        made.append(span)
        return events(span, *rest)

    monkeypatch.setattr(shoppers, "events", spy)
    assert sum(batch.num_rows for batch in synthesis.batches()) > 500
    assert len(made) <= 5  # the hour, and the three hours in which a visit that reaches into it may have begun


@pytest.mark.parametrize(
    ("begin", "until", "message"),
    [
        (START + timedelta(hours=2), START + timedelta(hours=1), "inside the period 2019-11-05 00:00"),
        (START - timedelta(hours=2), START + timedelta(hours=1), "inside the period 2019-11-05 00:00"),
        (START + timedelta(hours=2), START + timedelta(days=2), "inside the period 2019-11-05 00:00"),
        (START.replace(tzinfo=None), START, "time zones"),
    ],
)
def test_a_slice_outside_of_the_period_is_refused(begin, until, message):
    with pytest.raises(ConfigurationError, match=message):
        Synthesis(SynthesisSettings(events=1_000, products=1_000), between=(begin, until))
