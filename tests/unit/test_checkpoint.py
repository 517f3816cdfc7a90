"""Checkpoints: a generation holds whole or not at all."""

import json

import pyarrow as pa
import pytest

from shopstream.engine.checkpoint import CheckpointStore, Manifest, parse_manifest
from shopstream.errors import StateError

ROWS = pa.table({"n": [1, 2]})


def manifest(generation: int) -> Manifest:
    return Manifest(generation, {"shard": 7}, 100, {"shard": 105}, {"events_read": 3}, {"seen": "digest"})


def stage(store: CheckpointStore, generation: int) -> Manifest:
    made = manifest(generation)
    store.stage(made, lambda path: path.write_text("state"), {"rows": ROWS})
    return made


def test_a_new_folder_holds_nothing(tmp_path):
    store = CheckpointStore(tmp_path / "new")
    assert store.current() is None
    assert store.staged() is None


def test_a_staged_generation_does_not_hold_yet(tmp_path):
    store = CheckpointStore(tmp_path)
    made = stage(store, 1)
    assert store.current() is None
    assert store.staged() == made


def test_a_promoted_generation_holds_and_older_ones_go(tmp_path):
    store = CheckpointStore(tmp_path)
    store.promote(stage(store, 1))
    made = stage(store, 2)
    store.promote(made)
    assert store.current() == made
    assert store.staged() is None
    assert len(list(tmp_path.glob("generation-*"))) == 1


def test_outputs_and_state_come_back(tmp_path):
    store = CheckpointStore(tmp_path)
    made = stage(store, 1)
    assert store.output(made, "rows") == ROWS
    assert store.state_file(made).read_text() == "state"


def test_a_generation_cut_short_means_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    store.promote(stage(store, 1))
    stage(store, 2)
    (tmp_path / "generation-0000000002" / "manifest.json").unlink()
    assert store.staged() is None


def test_discarding_leaves_the_current_generation(tmp_path):
    store = CheckpointStore(tmp_path)
    store.promote(stage(store, 1))
    stage(store, 2)
    store.discard_staged()
    assert store.staged() is None
    assert store.current() == manifest(1)


def test_a_missing_generation_is_reported_with_a_remedy(tmp_path):
    store = CheckpointStore(tmp_path)
    (tmp_path / "CURRENT").write_text("5")
    with pytest.raises(StateError, match=r"lacks generation 5 .* restore it"):
        store.current()


def test_a_damaged_manifest_is_reported(tmp_path):
    store = CheckpointStore(tmp_path)
    store.promote(stage(store, 1))
    (tmp_path / "generation-0000000001" / "manifest.json").write_text("{")
    with pytest.raises(StateError, match="damaged"):
        store.current()


def test_another_format_is_reported(tmp_path):
    store = CheckpointStore(tmp_path)
    store.promote(stage(store, 1))
    path = tmp_path / "generation-0000000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(StateError, match="another version"):
        store.current()


def test_a_manifest_of_a_version_that_kept_no_ended_shards_is_read():
    fields = {"generation": 1, "positions": {"a": 1}, "watermark_ms": 0, "newest_ms": {}, "counters": {}, "tables": {}}
    assert parse_manifest(json.dumps({"format": 1, **fields}).encode(), "here") == Manifest(**fields)
    ended = {**fields, "ended": ["a"]}
    assert parse_manifest(json.dumps({"format": 1, **ended}).encode(), "here").ended == ("a",)
