"""What errors of AWS mean here, where no service answers at all."""

import pytest

from shopstream.aws.clients import client, explained
from shopstream.errors import ConfigurationError, RetryableError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_KINESIS": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)


def test_an_address_that_nobody_answers_at_may_have_a_misspelt_region():
    kinesis = client("kinesis", attempts=1)
    told = r"^AWS cannot be reached to list streams .*127\.0\.0\.1:9.*; try again, or correct the region"
    with pytest.raises(RetryableError, match=told), explained("to list streams"):
        kinesis.list_streams()


def test_what_can_be_no_region_is_a_wrong_setting(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu central")
    with pytest.raises(ConfigurationError, match=r"'eu central'.*set AWS_PROFILE and AWS_DEFAULT_REGION"):
        client("kinesis")
