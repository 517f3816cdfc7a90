"""A shop's day from a CSV in S3 to incidents, notifications, metrics and the lake, over the APIs of AWS alone."""

import json
import shlex
from collections import Counter

import pytest

from aws.shop import ended_well
from shopstream.adapters.ports import adapters_of
from shopstream.dashboard.panels import Panels

pytestmark = [pytest.mark.aws, pytest.mark.xdist_group("shop"), pytest.mark.timeout(600)]


def test_each_event_of_the_day_is_in_the_lake_once(on_aws, shop_day):
    rows = len(shop_day[0].read_text().splitlines()) - 1
    assert on_aws.status["events_read"] == rows
    assert on_aws.status["events_kept"] == len(on_aws.events)
    assert len({event_id for event_id, *_ in on_aws.events}) == len(on_aws.events)


def test_the_lake_is_iceberg_in_the_glue_catalog_on_s3(on_aws):
    assert {"events", "dead_letters", "detections"} <= on_aws.catalog.keys()
    for table in ("events", "dead_letters", "detections"):
        assert on_aws.catalog[table]["table_type"] == "ICEBERG"
        assert on_aws.catalog[table]["metadata_location"].startswith(f"s3://{on_aws.shop.bucket}/lake/")


def test_each_planted_attack_is_an_incident(on_aws, shop_day):
    incidents = list(on_aws.incidents.values())
    for episode in shop_day[1]["injections"]:
        actors = {str(actor) for actor in episode["actors"]}
        assert [
            one
            for one in incidents
            if one["first_event_time"].isoformat() <= episode["until"]
            and episode["from"] <= one["last_event_time"].isoformat()
            and (not one["keys"] or actors & {actor["value"] for actor in map(_actor, one["actors"])})
        ], episode["kind"]


def _actor(actor):
    return actor if isinstance(actor, dict) else {"kind": actor[0], "value": actor[1]}


def test_incidents_lie_in_dynamodb_and_the_function_says_so(on_aws):
    assert on_aws.items
    assert sum(line.get("IncidentsOpened", [0])[0] for line in map(_listed, on_aws.embedded_metrics)) >= 3


def _listed(line):
    return {name: value if isinstance(value, list) else [value] for name, value in line.items()}


def test_subscribers_are_notified_of_each_severe_incident_once(on_aws):
    told = Counter(incident["incident"] for message in on_aws.messages for incident in message["incidents"])
    severe = {
        one["id"]
        for one in on_aws.incidents.values()
        if one["parent"] is None and one["severity"] in {"high", "critical"}
    }
    assert severe
    assert severe <= told.keys()
    assert set(told.values()) == {1}


def test_the_worker_s_figures_are_in_cloudwatch(on_aws):
    assert on_aws.metrics["EventsRead"] == on_aws.status["events_read"]
    assert on_aws.metrics["EventsKept"] == on_aws.status["events_kept"]
    assert "WatermarkAgeSeconds" in on_aws.metrics


def test_final_detections_are_delivered(on_aws):
    assert {row["detection_id"] for row in on_aws.delivered}
    rules = {one["rule"] for one in on_aws.incidents.values()}
    assert rules <= {row["rule_id"] for row in on_aws.delivered}


def test_status_shows_that_everything_was_read(on_aws):
    assert on_aws.status["behind_ms"] == 0
    assert on_aws.status["profile"] == "aws"
    assert on_aws.status["incidents"] == sum(one["parent"] is None for one in on_aws.incidents.values())


COMMANDS = """
incidents list
incidents show {incident}
incidents events {incident} --limit 5
incidents ack {incident} --comment seen
incidents precision
incidents export --format ocsf
verdicts list
blocklist export --format csv
notify list
notify retry
journeys
journeys show {user}
deadletters list
lake status
query "select count(*) from events"
report unique_visitors
rules list
shards --stream
status
"""


def test_every_command_that_reads_works(on_aws):
    incident = next(one for one in on_aws.incidents.values() if one["parent"] is None)
    user = next(actor[1] for one in on_aws.incidents.values() for actor in one["actors"] if actor[0] == "user_id")
    commands = [shlex.split(line.format(incident=incident["id"], user=user)) for line in COMMANDS.split("\n") if line]
    code = f"""
from shopstream.cli import app
for command in {commands!r}:
    print("#", *command, flush=True)
    app(command, standalone_mode=False)
"""
    out = ended_well(on_aws.shop.start("-c", code), "the commands")
    assert out.count("# ") >= len(commands)
    assert "acknowledged" in out


def test_the_page_follows_an_engine_that_runs_elsewhere(on_aws):
    home = adapters_of(on_aws.shop.settings()).dashboard_home()
    panels = {name: json.loads(text) for name, text in Panels(home).read().items()}
    assert panels["health"]["counters"]["events_read"] == on_aws.status["events_read"]
    assert panels["health"]["shards"] == 2
    assert panels["health"]["lag_ms"] == 0
    assert panels["incidents"]["total"] == on_aws.status["incidents"]
    assert panels["live"]["sessions"]
    assert panels["reports"]
