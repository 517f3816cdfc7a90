"""The line that reads events takes every synthetic one, and takes it as what it was."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from shopstream.clock import to_ms
from shopstream.events.codec import decode
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings

ARRIVAL_MS = to_ms(datetime(2019, 11, 6, tzinfo=UTC))


@pytest.mark.parametrize("tracker", [False, True])
def test_every_synthetic_row_decodes_to_the_same_event(tmp_path, tracker):
    settings = SynthesisSettings(events=20_000, products=3_000, seed=5, tracker=tracker)
    Synthesis(settings).write(tmp_path / "day.csv")
    columns = WIRE_SCHEMA.names if tracker else list(REES46_COLUMNS)
    schema = pa.schema([WIRE_SCHEMA.field(name) for name in columns])
    wanted = pa.concat_tables(batch.select(columns).cast(schema) for batch in Synthesis(settings).batches())
    decoded = decode([(tmp_path / "day.csv").read_bytes()], [ARRIVAL_MS])
    assert decoded.rejects.num_rows == 0
    assert decoded.events.select(columns).cast(schema).to_pylist() == wanted.to_pylist()
    assert "nan" in decoded.events["brand"].cast(pa.string()).to_pylist()
