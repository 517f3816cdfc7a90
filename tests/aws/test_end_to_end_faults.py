"""Every service throttles, fails, loses answers and does things by halves: the day ends as if nothing had been."""

import pytest

from aws.conftest import Came, came, of_moto
from aws.shop import AwsShop
from standins import environment, faults
from standins.proxy import FaultProxy

pytestmark = [pytest.mark.aws, pytest.mark.slow, pytest.mark.xdist_group("shop"), pytest.mark.timeout(1200)]

_STARTS = 12
_OFTEN, _SELDOM = 0.10, 0.03


def plan(kinesis, dynamodb, rest):
    """Faults for all calls to come, the same in each run."""
    for seed, (operation, fault, chance) in enumerate(
        [
            ("PutRecords", faults.partly(), _OFTEN),
            ("PutRecords", faults.lost_answer(), _OFTEN),
            ("GetRecords", faults.expired_iterator(), _OFTEN),
            (None, faults.throttled(), _OFTEN),
            (None, faults.failing(), _SELDOM),
            (None, faults.lost_request(), _SELDOM),
        ]
    ):
        kinesis.on(operation, fault, times=None, chance=chance, seed=seed)
    # A lost answer is worst where the call was a condition: the same call again is refused because of the first.
    for operation in ("TransactWriteItems", "PutItem", "UpdateItem"):
        dynamodb.on(operation, faults.lost_answer(), times=None, chance=_OFTEN, seed=10)
    for operation in ("PutObject", "UpdateTable"):
        rest.on(operation, faults.lost_answer(), times=None, chance=_OFTEN, seed=20)
    rest.on("PutRecordBatch", faults.partly(), times=None, chance=_OFTEN, seed=21)
    for proxy, chance in ((dynamodb, _OFTEN), (rest, _SELDOM)):
        for seed, fault in enumerate([faults.throttled(), faults.failing(503), faults.lost_request()], 30):
            proxy.on(None, fault, times=None, chance=chance, seed=seed)


@pytest.fixture(scope="module")
def services(moto, kinesalite, dynamodb_local):
    with FaultProxy(kinesalite) as kinesis, FaultProxy(dynamodb_local) as dynamodb, FaultProxy(moto) as rest:
        yield kinesis, dynamodb, rest


@pytest.fixture(scope="module")
def survived(aws_services, services, shop_day, fresh_name, tmp_path_factory):
    """What came of the day, and what the programs said that gave up on the way."""
    assert aws_services
    folder = tmp_path_factory.mktemp("faults")
    kinesis, dynamodb, rest = services
    with pytest.MonkeyPatch.context() as patch, AwsShop(folder / "worker", fresh_name) as shop:
        environment.point_at(patch, {"kinesis": kinesis.url, "dynamodb": dynamodb.url, **of_moto(rest.url)})
        shop.environment["SHOPSTREAM_ENGINE__COMMIT_EVENTS"] = "4000"
        address = shop.upload(shop_day[0])
        plan(kinesis, dynamodb, rest)
        said = until_well(lambda: shop.command("simulate", address, "--rate", "6000"))
        said += until_well(lambda: shop.command("run", "--until-caught-up", "--quiet"))
        said += until_well(lambda: shop.function(folder / "function", "--until-idle"))
        taken = [sum(call.status != 200 for call in proxy.calls) for proxy in services]
        for proxy in services:
            proxy.clear()
        result = Came(**came(shop)), said, taken
    environment.forget_file_systems()  # they know the proxies' addresses
    return result


def until_well(start):
    """Start a program again while it ends badly, as its service would; what it said each time."""
    said = []
    for _ in range(_STARTS):
        process = start()
        _, err = process.communicate(timeout=600)
        if process.returncode == 0:
            return said
        said.append(err)
    raise AssertionError(f"gave up {_STARTS} times: {said[-1][-3000:]}")


def other_than_repeats(incidents):
    """A put whose answer was lost comes twice: that events are sent again is true then, and may be told."""
    return {place: one for place, one in incidents.items() if one["rule"] != "duplicates"}


def test_faults_change_no_incident(survived, embedded):
    assert other_than_repeats(survived[0].incidents) == other_than_repeats(embedded.incidents)
    assert survived[0].verdicts == embedded.verdicts


def test_faults_lose_and_double_no_event(survived, embedded):
    assert survived[0].events == embedded.events
    assert survived[0].reports == embedded.reports


def test_each_service_had_its_faults(survived):
    assert min(survived[2]) > 5


def test_programs_that_give_up_say_why_in_a_line(survived):
    assert not [said for said in survived[1] if "Traceback" in said]
