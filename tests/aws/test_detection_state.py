"""Detector state in DynamoDB: of any size, one writer at a time, kept as long as something runs."""

import random
from datetime import timedelta

import boto3
import pytest

from shopstream.clock import ManualClock
from shopstream.errors import BackpressureError, StateError
from shopstream.incidents.settings import DynamoSettings
from shopstream.lambdas import state as detection_state
from shopstream.lambdas.state import DetectionState
from standins import faults

pytestmark = pytest.mark.aws

SEQUENCE_NUMBER = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898


@pytest.fixture
def proxy(fault_proxy, dynamodb_local, aws_env):
    found = fault_proxy(dynamodb_local)
    aws_env(dynamodb=found.url)
    return found


@pytest.fixture
def clock():
    return ManualClock(1_795_000_000_000)


@pytest.fixture
def place(proxy, make_table):
    assert proxy.url
    return DynamoSettings(table=make_table(indexed=True))


@pytest.fixture
def state(place, clock):
    return DetectionState(place, clock)


def large(seed):
    draw = random.Random(seed)  # noqa: S311  no secret
    return {"detectors": {"volume": [draw.random() for _ in range(100_000)]}}


def parts(place):
    items = boto3.client("dynamodb").scan(TableName=place.table)["Items"]
    return [item for item in items if item["pk"]["S"].startswith("DETECTION#")]


def test_at_first_there_is_none(state):
    assert state.load() is None
    assert state.generation() == 0


def test_a_state_larger_than_an_item_comes_back_exactly(state, place, clock):
    positions = {"shardId-000000000000": SEQUENCE_NUMBER}
    assert state.save(large(1), positions, until_ms=5_000) == 1
    saved = DetectionState(place, clock).load()
    assert (saved.state, saved.positions, saved.until_ms) == (large(1), positions, 5_000)
    assert (saved.generation, saved.saved_ms, state.generation()) == (1, clock.now_ms(), 1)
    assert len(parts(place)) > 2


def test_of_two_concurrent_saves_one_wins_and_the_other_raises(state, place, clock):
    other = DetectionState(place, clock)
    state.save(large(1), {"a": 1})
    state.save(large(2), {"a": 2}, expected_generation=1)
    with pytest.raises(StateError, match="expected the state of detection of generation 1, got 2"):
        other.save(large(3), {"a": 2}, expected_generation=1)
    assert other.load().state == large(2)


def test_a_lost_answer_saves_once(state, proxy):
    proxy.on("PutItem", faults.lost_answer(), times=2)
    assert state.save({"a": 1}, {}) == 1
    assert state.load().generation == 1


def test_a_throttled_save_leaves_what_was_saved_before(state, proxy):
    state.save({"a": 1}, {})
    proxy.on("PutItem", faults.throttled(), times=5)
    with pytest.raises(BackpressureError):
        state.save({"a": 2}, {}, expected_generation=1)
    assert state.load().state == {"a": 1}


def test_what_expires_starts_afresh_and_can_be_saved_over(state, place):
    state.save({"a": 1}, {})
    for part in parts(place):
        boto3.client("dynamodb").delete_item(TableName=place.table, Key={"pk": part["pk"], "sk": part["sk"]})
    assert state.load() is None
    assert state.save({"a": 2}, {}) == 2
    assert state.load().state == {"a": 2}


def test_keeping_puts_off_the_expiry_of_what_counts(state, place, clock):
    assert not state.keep()
    state.save({"a": 1}, {})
    (before,) = parts(place)
    assert not state.keep()
    clock.advance(timedelta(days=1, minutes=1))
    assert state.keep()
    (after,) = parts(place)
    assert int(after["expires_at"]["N"]) - int(before["expires_at"]["N"]) == 86_460
    assert not state.keep()
    assert state.load().state == {"a": 1}


def test_of_old_generations_only_what_expires_is_left(state, place, clock):
    for generation in range(3):
        state.save({"a": generation}, {}, expected_generation=generation)
    expiries = {int(part["expires_at"]["N"]) for part in parts(place)}
    assert expiries == {clock.now_ms() // 1_000 + round(detection_state.KEPT.total_seconds())}


def test_a_damaged_or_foreign_state_says_so(state, place):
    state.save({"a": 1}, {})
    client = boto3.client("dynamodb")
    (part,) = parts(place)
    client.put_item(TableName=place.table, Item=part | {"data": {"B": b"no"}})
    with pytest.raises(StateError, match="damaged"):
        state.load()
    head = client.get_item(TableName=place.table, Key={"pk": {"S": "DETECTION"}, "sk": {"S": "HEAD"}})["Item"]
    client.put_item(TableName=place.table, Item=head | {"format": {"N": "9"}})
    with pytest.raises(StateError, match="format 1, got 9"):
        state.load()
