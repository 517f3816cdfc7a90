"""A pipeline whose checkpoints lie in S3 goes on, on a machine with an empty disk, as if it had not been killed."""

import shutil
import signal

import boto3
import pytest

from recovery.pipelines import Processes, new_home, outcome
from shopstream.aws.objects import S3Objects
from shopstream.engine.checkpoint import SharedCheckpointStore
from standins import environment

pytestmark = pytest.mark.aws

STEPS = [
    ("claim", "after", 1),
    ("stage", "after", 2),
    ("upload", "before", 10),  # the manifest of the second generation
    ("secure", "after", 2),
    ("append", "after", 4),
    ("point", "after", 3),
    ("clean", "before", 2),
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


class Worker:
    """A pipeline on a machine whose checkpoints lie in a place of their own in S3."""

    def __init__(self, processes, home, place):
        self._processes, self._home, self._place = processes, home, place
        self.objects = S3Objects(place)

    def run(self, die=None):
        return self._processes.run(self._home, die=die, checkpoints=self._place)

    def lose_disk(self):
        shutil.rmtree(self._home / "checkpoint", ignore_errors=True)

    def outcome(self):
        return outcome(self._home, SharedCheckpointStore(self._home / "read", self.objects))


@pytest.fixture(scope="module")
def shared_processes(bucket):
    assert bucket
    server = Processes()
    yield server
    server.close()


@pytest.fixture
def worker(bucket, shared_processes, stream_file, tmp_path):
    return Worker(shared_processes, new_home(tmp_path, stream_file), f"{bucket}/{tmp_path.name}")


def test_checkpoints_in_s3_give_what_those_in_a_folder_give(worker, undisturbed):
    assert worker.run() == 0
    assert worker.outcome() == undisturbed


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(map(str, step)))
def test_a_kill_at_this_step_and_an_empty_disk_change_nothing(step, worker, undisturbed):
    assert worker.run(die=step) == signal.SIGKILL
    worker.lose_disk()
    assert worker.run() == 0
    assert worker.outcome() == undisturbed
    assert len({key.partition("/")[0] for key in worker.objects.keys("generation-")}) == 1
