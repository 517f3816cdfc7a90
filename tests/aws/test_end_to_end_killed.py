"""Worker and function are killed on the way, the worker's disk is lost each time: the day ends the same."""

import json
import time

import boto3
import pytest

from aws.conftest import Came, came
from aws.shop import AwsShop, ended_well

pytestmark = [pytest.mark.aws, pytest.mark.slow, pytest.mark.xdist_group("shop"), pytest.mark.timeout(900)]

KILLS = 3
_PATIENCE_S = 60


@pytest.fixture(scope="module")
def killed(aws_services, shop_day, fresh_name, tmp_path_factory):
    assert aws_services
    folder = tmp_path_factory.mktemp("killed")
    with AwsShop(folder / "0", fresh_name) as shop:
        shop.environment |= {
            "SHOPSTREAM_ENGINE__BATCH_BYTES": "60000",
            "SHOPSTREAM_ENGINE__COMMIT_EVENTS": "1500",
            "SHOPSTREAM_AWS__KINESIS__LEASE_TIME": "PT5S",
        }
        shop.run("simulate", shop.upload(shop_day[0]))
        function = shop.function(folder / "function")
        for number in range(1, KILLS + 1):
            shop.environment["SHOPSTREAM_HOME"] = str(folder / str(number))
            worker = shop.command("run", "--quiet")
            kill_after(function, lambda: position(folder / "function"))
            function = shop.function(folder / "function")
            kill_after(worker, lambda: generation(shop))
        shop.environment["SHOPSTREAM_HOME"] = str(folder / "last")
        shop.run("run", "--until-caught-up", "--quiet")
        function.kill()
        function.communicate()
        ended_well(shop.function(folder / "function", "--until-idle"), "the function")
        return Came(**came(shop))


def kill_after(process, progress):
    """SIGKILL once there was progress, which is read from outside."""
    began, until = progress(), time.monotonic() + _PATIENCE_S
    while progress() == began and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    died_by_itself = process.poll()
    process.kill()
    _, err = process.communicate()
    assert died_by_itself is None, err[-3000:]


def generation(shop):
    keys = boto3.client("s3").list_objects_v2(Bucket=shop.bucket, Prefix="checkpoints/CURRENT").get("Contents")
    if not keys:
        return 0
    body = boto3.client("s3").get_object(Bucket=shop.bucket, Key="checkpoints/CURRENT")["Body"].read()
    return json.loads(body)["generation"]


def position(folder):
    path = folder / "position"
    return path.read_text() if path.exists() else None


def test_kills_change_no_incident(killed, embedded):
    assert killed.incidents == embedded.incidents
    assert killed.verdicts == embedded.verdicts


def test_kills_lose_and_double_no_event(killed, embedded):
    assert killed.events == embedded.events
    assert killed.reports == embedded.reports
