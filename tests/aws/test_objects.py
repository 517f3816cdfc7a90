"""What checkpoints need of S3: whole objects, versions, and who was first."""

from datetime import timedelta

import pytest

from shopstream.aws.objects import S3Objects
from shopstream.clock import ManualClock
from shopstream.engine.checkpoint import Manifest, SharedCheckpointStore
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError, StateError
from shopstream.journeys.store import LiveObject
from standins import faults
from standins.call import Answer

pytestmark = pytest.mark.aws


@pytest.fixture
def s3(moto, fault_proxy):
    return fault_proxy(moto)


@pytest.fixture
def objects(s3, aws_env, make_bucket):
    aws_env(s3=s3.url)
    return S3Objects(f"s3://{make_bucket()}/some/prefix")


def test_an_object_is_read_with_its_version(objects):
    objects.write("a", b"one")
    content, version = objects.read("a")
    assert content == b"one"
    assert objects.replace("a", b"two", version) is not None
    assert objects.read("a")[0] == b"two"


def test_a_missing_object_is_none(objects):
    assert objects.read("a") is None
    assert objects.written_at("a") is None


def test_only_the_first_of_two_writers_makes_a_new_object(objects):
    assert objects.replace("a", b"first", None) is not None
    assert objects.replace("a", b"second", None) is None
    assert objects.read("a")[0] == b"first"


def test_a_stale_version_changes_nothing(objects):
    old = objects.replace("a", b"one", None)
    objects.replace("a", b"two", old)
    assert objects.replace("a", b"three", old) is None
    assert objects.replace("b", b"gone meanwhile", old) is None
    assert objects.read("a")[0] == b"two"


def test_a_file_is_downloaded_as_it_was_uploaded(objects, tmp_path):
    (tmp_path / "state").write_bytes(bytes(range(256)) * 50_000)
    objects.upload("g/state", tmp_path / "state")
    objects.download("g/state", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "state").read_bytes()


def test_keys_are_those_below_the_prefix_alone(objects):
    objects.write("g-1/b", b"")
    objects.write("g-1/a", b"")
    objects.write("g-2/a", b"")
    S3Objects(objects.place.removesuffix("/prefix")).write("elsewhere", b"")
    assert objects.keys("g-1") == ["g-1/a", "g-1/b"]
    objects.delete(["g-1/a", "g-1/b", "gone"])
    assert objects.keys("") == ["g-2/a"]


@pytest.mark.parametrize(
    ("code", "told"),
    [("InternalError", RetryableError), ("SlowDown", BackpressureError), ("AccessDenied", ConfigurationError)],
)
def test_an_object_that_cannot_be_removed_is_reported_by_kind(s3, objects, code, told):
    objects.write("a", b"")
    refusal = f"<DeleteResult><Error><Key>a</Key><Code>{code}</Code><Message>no</Message></Error></DeleteResult>"
    s3.on("DeleteObjects", lambda *_: Answer(200, {"Content-Type": "application/xml"}, refusal.encode()), times=1)
    with pytest.raises(told, match="to clean up s3://"):
        objects.delete(["a"])


def test_a_missing_bucket_is_reported_with_a_remedy(moto, aws_env):
    aws_env(s3=moto)
    with pytest.raises(StateError, match="deploy it, or correct the name"):
        S3Objects("s3://no-such-bucket-here/x").keys("")


def test_a_file_that_is_gone_is_reported(objects, tmp_path):
    with pytest.raises(StateError, match="to read s3://"):
        objects.download("gone", tmp_path / "gone")


def test_a_download_whose_answers_are_all_cut_short_is_retryable(s3, objects, tmp_path):
    objects.write("a", b"content" * 1_000)
    s3.on("GetObject", faults.cut_short(), times=None)
    with pytest.raises(RetryableError, match=r"cannot be reached to read s3://.*; try again"):
        objects.download("a", tmp_path / "a")
    s3.clear()
    objects.download("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"content" * 1_000


def test_live_panels_are_written_every_ten_seconds_and_at_the_end(objects):
    clock = ManualClock(0)
    live = LiveObject(objects, clock)
    assert live.read() == {}
    live.publish({"sessions": 1}, 5)
    live.publish({"sessions": 2}, 6)
    assert live.read() == {"sessions": 1, "as_of_ms": 5}
    live.close()
    assert live.read() == {"sessions": 2, "as_of_ms": 6}


def test_live_panels_that_cannot_be_written_do_not_block_the_pipeline(s3, objects, caplog):
    clock = ManualClock(0)
    live = LiveObject(objects, clock)
    s3.on("PutObject", faults.failing(), times=5)  # all tries of one call
    live.publish({"sessions": 1}, 5)
    assert "live panels cannot be written now" in caplog.text
    clock.sleep(timedelta(seconds=10))
    live.publish({"sessions": 2}, 6)
    assert live.read() == {"sessions": 2, "as_of_ms": 6}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (faults.denied(), (ConfigurationError, r"denies permission .*s3:PutObject")),
        (faults.skewed(), (ConfigurationError, "set the clock by NTP")),
        (faults.throttled(), (BackpressureError, "throttles")),
        (faults.failing(), (RetryableError, "failed on its side")),
        (faults.lost_request(), (RetryableError, "cannot be reached")),
    ],
    ids=["denied", "skewed", "throttled", "failing", "unreachable"],
)
def test_trouble_with_s3_is_reported_by_kind(s3, objects, tmp_path, fault, told):
    (tmp_path / "file").write_bytes(b"content")
    s3.on("PutObject", fault, times=None)
    for call in (
        lambda: objects.write("a", b""),
        lambda: objects.replace("a", b"", None),
        lambda: objects.upload("a", tmp_path / "file"),
    ):
        with pytest.raises(told[0], match=told[1]):
            call()


def test_a_promotion_with_a_lost_answer_counts(s3, objects, tmp_path):
    store = SharedCheckpointStore(tmp_path, objects)
    store.claim()
    manifest = Manifest(1, {}, 0, {}, {}, {}, store.owner)
    store.stage(manifest, lambda path: path.write_text("state"), {})
    store.secure(manifest)
    s3.on("PutObject", faults.lost_answer())
    store.promote(manifest)
    assert store.current() == manifest


def test_a_claim_with_a_lost_answer_is_made_again(s3, objects, tmp_path):
    store = SharedCheckpointStore(tmp_path, objects)
    s3.on("PutObject", faults.lost_answer())
    store.claim()
    assert store.owner == 2
