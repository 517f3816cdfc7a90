"""How a synthesis is read changes nothing about it."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.faults_and_surges import FlashSale, Outage
from shopstream.simulation.injection import Scenario
from shopstream.simulation.synthesis import OutOfOrder, Synthesis, SynthesisSettings

START = datetime(2019, 11, 5, tzinfo=UTC)

moments = st.integers(0, 23 * 60).map(lambda minute: START + timedelta(minutes=minute))
durations = st.integers(1, 5_400).map(lambda seconds: timedelta(seconds=seconds))
scenarios: st.SearchStrategy[Scenario] = st.one_of(
    st.builds(Flood, moments, durations, st.floats(1.5, 10), st.integers(1, 200)),
    st.builds(Scraper, moments, durations, st.integers(1, 4), st.floats(1, 60)),
    st.builds(FlashSale, moments, durations, st.floats(1.5, 10)),
    st.builds(Outage, moments, durations),
)


def _read(options: SynthesisSettings, batch_events: int) -> tuple[pa.Table, dict[str, object]]:
    synthesis = Synthesis(options)
    batches = list(synthesis.batches(batch_events))
    assert all(0 < batch.num_rows <= batch_events for batch in batches)
    plain = [batch.cast(pa.schema([(f.name, _plain(f.type)) for f in batch.schema])) for batch in batches]
    return pa.concat_tables(plain).combine_chunks(), synthesis.truth()


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 5),
    tracker=st.booleans(),
    disorder=st.none() | st.builds(OutOfOrder, st.floats(0, 1), st.floats(0.5, 4_000)),
    laid=st.lists(scenarios, max_size=3).map(tuple),
    batch_events=st.integers(50, 5_000),
)
def test_the_events_do_not_depend_on_the_size_of_batches(seed, tracker, disorder, laid, batch_events):
    options = SynthesisSettings(
        events=4_000, products=1_000, seed=seed, tracker=tracker, out_of_order=disorder, scenarios=laid
    )
    one, truth = _read(options, 1_000_000)
    many, same = _read(options, batch_events)
    assert one.equals(many)
    assert truth == same
    assert truth["events"] == one.num_rows
    if disorder is None:
        times = one["event_time"].to_numpy()
        assert (times[1:] >= times[:-1]).all()
