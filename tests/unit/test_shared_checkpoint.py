"""Checkpoints in an object store: one owner at a time, whole or not at all, found from any machine."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from shopstream.engine.checkpoint import Manifest, SharedCheckpointStore
from shopstream.errors import RetryableError, StateError

ROWS = pa.table({"n": [1, 2]})


class Objects:
    """An object store in memory; `lose_answer` makes the next `replace` succeed and say that it did not."""

    place = "memory://checkpoints"

    def __init__(self):
        self.contents = {}
        self.lose_answer = False
        self._writes = 0

    def read(self, key):
        return self.contents.get(key)

    def written_at(self, key):
        return datetime(2026, 1, 1, tzinfo=UTC) if key in self.contents else None

    def replace(self, key, content, version):
        if (self.contents[key][1] if key in self.contents else None) != version:
            return None
        self.write(key, content)
        if self.lose_answer:
            self.lose_answer = False
            return None
        return self.contents[key][1]

    def write(self, key, content):
        self._writes += 1
        self.contents[key] = content, str(self._writes)

    def upload(self, key, path):
        self.write(key, path.read_bytes())

    def download(self, key, path):
        path.write_bytes(self.contents[key][0])

    def keys(self, prefix):
        return sorted(key for key in self.contents if key.startswith(prefix))

    def delete(self, keys):
        for key in keys:
            del self.contents[key]

    @property
    def generations(self):
        return sorted({key.partition("/")[0] for key in self.keys("generation-")})


@pytest.fixture
def objects():
    return Objects()


@pytest.fixture
def machine(objects, tmp_path):
    """A store on a machine of its own, which has claimed the checkpoints."""
    machines = []

    def new():
        machines.append(SharedCheckpointStore(tmp_path / str(len(machines)), objects))
        machines[-1].claim()
        return machines[-1]

    return new


def stage(store, generation, *, secure=True):
    manifest = Manifest(generation, {"shard": 7}, 100, {"shard": 105}, {"events_read": 3}, {"seen": "x"}, store.owner)
    store.stage(manifest, lambda path: path.write_text("state"), {"rows": ROWS}, {"detectors": {"seen": 1}})
    if secure:
        store.secure(manifest)
    return manifest


def test_a_new_place_holds_nothing(machine):
    store = machine()
    assert store.current() is None
    assert store.staged() is None
    assert store.owner == 1


def test_a_promoted_generation_is_whole_on_a_machine_with_an_empty_disk(machine):
    store = machine()
    made = stage(store, 1)
    store.promote(made)
    other = machine()
    held = other.current()
    assert held == made
    assert other.state_file(held).read_text() == "state"
    assert other.output(held, "rows") == ROWS
    assert other.document(held, "detectors") == {"seen": 1}


def test_what_was_only_staged_on_a_lost_disk_never_was(machine):
    stage(machine(), 1, secure=False)
    assert machine().staged() is None


def test_a_generation_without_its_manifest_means_nothing(machine, objects):
    made = stage(machine(), 1)
    objects.delete([f"{made.folder}/manifest.json"])
    assert machine().staged() is None


def test_whoever_was_taken_over_from_cannot_promote(machine):
    first = machine()
    made = stage(first, 1)
    machine()
    with pytest.raises(RetryableError, match=r"another process \(owner 2\) has taken over"):
        first.promote(made)


def test_whoever_was_taken_over_from_hears_it_before_the_lake_decides(machine):
    first = machine()
    machine()
    with pytest.raises(RetryableError, match="taken over"):
        stage(first, 1)


def test_the_generation_that_the_lake_names_is_found_whoever_made_it(machine):
    first = machine()
    of_first = stage(first, 1)
    second = machine()
    of_second = stage(second, 1)
    third = machine()
    assert third.staged(of_first.mark) == of_first
    assert third.staged(of_second.mark) == of_second
    assert third.staged(of_second.mark + 1) is None


def test_discarding_leaves_in_the_store_what_the_lake_may_yet_decide_for(machine):
    made = stage(machine(), 1)
    second = machine()
    second.discard_staged()
    assert second.staged(made.mark) == made


def test_the_next_promotion_removes_all_older_generations(machine, objects):
    first = machine()
    first.promote(stage(first, 1))
    stage(first, 2)
    second = machine()
    made = stage(second, 2)
    second.promote(made)
    assert objects.generations == [made.folder]


def test_a_promotion_leaves_what_a_newer_owner_writes(machine, objects):
    first = machine()
    made = stage(first, 1)
    newer = made.folder.replace("-000001", "-000002")
    objects.write(f"{newer}/state.duckdb", b"under way")
    first.promote(made)
    assert objects.generations == [made.folder, newer]


def test_a_promotion_whose_answer_got_lost_counts(machine, objects):
    store = machine()
    made = stage(store, 1)
    objects.lose_answer = True
    store.promote(made)
    store.promote(stage(store, 2))
    assert store.current().generation == 2


def test_a_later_owner_has_larger_marks_whatever_the_generation(machine):
    first = machine()
    late = stage(first, 900)
    second = machine()
    assert stage(second, 1).mark > late.mark


def test_a_missing_generation_is_reported_with_a_remedy(machine, objects):
    store = machine()
    store.promote(stage(store, 1))
    objects.delete(objects.keys("generation-"))
    with pytest.raises(StateError, match="lacks generation 1 that CURRENT names; restore it"):
        store.current()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"format": 1, "other": 2}'])
def test_a_damaged_pointer_is_reported_with_a_remedy(machine, objects, content):
    store = machine()
    objects.write("CURRENT", content)
    with pytest.raises(StateError, match="damaged; write format, owner, generation"):
        store.current()


def test_another_format_is_reported(machine, objects):
    store = machine()
    objects.write("CURRENT", b'{"format": 99, "owner": 1, "generation": 0, "made_by": 0}')
    with pytest.raises(StateError, match="another version"):
        store.current()


def test_a_generation_fetched_before_is_not_fetched_again(machine, objects):
    store = machine()
    made = stage(store, 1)
    store.promote(made)
    objects.contents[f"{made.folder}/state.duckdb"] = b"other", "1"
    assert store.state_file(made).read_text() == "state"
