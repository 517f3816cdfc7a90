"""A pipeline whose checkpoints lie in S3 goes on, on a machine with an empty disk, as if it had not been killed."""

import shutil
import signal

import boto3
import pytest

from recovery.pipelines import Processes, new_home, outcome
from shopstream.bootstrap.aws import S3Objects
from shopstream.engine.shared_checkpoint import SharedCheckpointStore
from standins import environment

pytestmark = pytest.mark.aws

STEPS = [
    ("claim", "after", 1),
    ("stage", "after", 2),
    ("upload", "before", 10),  # the manifest of the second generation
    ("secure", "after", 2),
    ("append", "after", 4),
    ("append", "after", 6),
    ("point", "after", 3),
    ("clean", "before", 2),
    ("promote_shared", "after", 2),
]


@pytest.fixture(scope="module")
def bucket(moto, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        environment.shut(patch, tmp_path_factory.mktemp("aws"))
        environment.point_at(patch, {"s3": moto})
        boto3.client("s3").create_bucket(
            Bucket="checkpoints", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        yield "s3://checkpoints"


@pytest.fixture(scope="module")
def shared_processes(bucket):
    server = Processes()
    yield server
    server.close()


def test_checkpoints_in_s3_give_what_those_in_a_folder_give(
    bucket, shared_processes, stream_file, undisturbed, tmp_path
):
    home = new_home(tmp_path, stream_file)
    place = f"{bucket}/calm"
    assert shared_processes.run(home, checkpoints=place) == 0
    assert outcome(home, store(home, place)) == undisturbed


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(map(str, step)))
def test_a_kill_at_this_step_and_an_empty_disk_change_nothing(
    step, bucket, shared_processes, stream_file, undisturbed, tmp_path
):
    home = new_home(tmp_path, stream_file)
    place = f"{bucket}/{'-'.join(map(str, step))}"
    assert shared_processes.run(home, die=step, checkpoints=place) == signal.SIGKILL
    shutil.rmtree(home / "checkpoint", ignore_errors=True)
    assert shared_processes.run(home, checkpoints=place) == 0
    assert outcome(home, store(home, place)) == undisturbed
    folders = {key.partition("/")[0] for key in S3Objects(place).keys("generation-")}
    assert len(folders) == 1


def store(home, place):
    return SharedCheckpointStore(home / "read", S3Objects(place))
