"""Detections on their way to the lake: whole, in limits, again when they are refused, and once for readers."""

import duckdb
import pytest

from lambdas.functions import Services
from lambdas.hour import rules
from shopstream.detection.detection import detection_row
from shopstream.detection.rule_matcher import detect
from shopstream.errors import RetryableError
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import DETECTION_FIELDS, create_views, detection_rows
from shopstream.lambdas.aws import FirehoseSink, _batches
from standins import faults


@pytest.fixture(scope="module")
def detections(moments):
    found = detect([signal for signals, _ in moments for signal in signals], rules())
    return list({one.detection_id: one for one in found if one.final}.values())


@pytest.fixture
def services(aws_env, moto, fresh_name, tmp_path):
    aws_env(default=moto)
    return Services(fresh_name, tmp_path)


@pytest.fixture
def firehose(aws_env, fault_proxy, moto, services):  # noqa: ARG001  it sets the other addresses
    proxy = fault_proxy(moto)
    aws_env(firehose=proxy.url)
    return proxy


def test_a_row_has_the_columns_of_the_table(detections):
    assert list(detection_row(detections[0])) == [field.name for field in DETECTION_FIELDS]


def test_batches_keep_firehoses_limits():
    lines = [b"x" * 900_000] * 9 + [b"y" * 100] * 1_200
    batches = _batches(lines)
    assert [line for batch in batches for line in batch] == lines
    assert max(len(batch) for batch in batches) <= 500
    assert max(sum(map(len, batch)) for batch in batches) <= 4 << 20


def test_a_detection_that_firehose_never_takes_is_an_error_of_its_record():
    with pytest.raises(ValueError, match="measure less"):
        _batches([b"x" * 1_100_000])


def test_readers_see_a_detection_that_was_delivered_twice_once(tmp_path, detections):
    lakehouse = EmbeddedLakehouse(tmp_path / "lake", LakehouseSettings(durable=False))
    for turn in range(2):
        lakehouse.append(LakeTable.DETECTIONS, detection_rows(detections), {"turn": turn})
    with duckdb.connect() as connection:
        create_views(connection, lakehouse)
        assert connection.execute("SELECT count(*) FROM detections").fetchone() == (len(detections),)
    lakehouse.close()


@pytest.mark.aws
def test_what_firehose_refuses_alone_is_put_again(firehose, services, detections):
    firehose.on("PutRecordBatch", faults.partly(), times=2)
    FirehoseSink(services.delivery).deliver(detections)
    assert sorted(row["detection_id"] for row in services.delivered()) == sorted(d.detection_id for d in detections)


@pytest.mark.aws
def test_what_firehose_refuses_for_ever_is_a_retryable_error(firehose, services, detections):
    firehose.on("PutRecordBatch", faults.partly(refuse=lambda _index, _: True), times=100)
    with pytest.raises(RetryableError, match="refused 2 detections 5 times"):
        FirehoseSink(services.delivery).deliver(detections[:2])


@pytest.mark.aws
def test_a_firehose_that_throttles_is_a_retryable_error(firehose, services, detections):
    firehose.on("PutRecordBatch", faults.throttled(), times=100)
    with pytest.raises(RetryableError, match="to deliver detections"):
        FirehoseSink(services.delivery).deliver(detections)
