"""The same day gives the same incidents and reports in both profiles."""

from contextlib import closing

import pytest

from aws.shop import AwsShop, incidents_of
from shopstream.adapters.ports import adapters_of

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("shop"), pytest.mark.timeout(600)]


def test_the_same_events_are_in_both_lakes(on_aws, embedded):
    assert on_aws.events == embedded.events


def test_the_incidents_are_the_same(on_aws, embedded):
    assert on_aws.incidents.keys() == embedded.incidents.keys()
    assert on_aws.incidents == embedded.incidents
    assert len(embedded.incidents) >= 3


def test_the_verdicts_are_the_same(on_aws, embedded):
    assert on_aws.verdicts == embedded.verdicts
    assert embedded.verdicts


def test_the_reports_are_the_same(on_aws, embedded):
    assert on_aws.reports == embedded.reports
    assert all(embedded.reports.values())


@pytest.mark.usefixtures("aws_services")
def test_a_worker_with_its_own_detection_finds_and_notifies_the_same(shop_day, embedded, fresh_name, tmp_path):
    with AwsShop(tmp_path / "home", fresh_name, detection="worker") as shop:
        shop.run("simulate", shop.upload(shop_day[0]))
        shop.run("run", "--until-caught-up", "--quiet")
        with closing(adapters_of(shop.settings()).open_incidents()) as store:
            assert incidents_of(store) == embedded.incidents
        assert shop.messages()
