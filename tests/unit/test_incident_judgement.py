"""What follows from what people say of incidents: verdicts, precision, blocklists; and findings for other systems."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from factories import USER, make_detection
from incident_desk import sqlite_desk
from shopstream.cli import app
from shopstream.detection.detection import Nature
from shopstream.incidents.explanation import genuine_share, lines_of, title_of
from shopstream.incidents.incident import RulePrecision, State, TriageStatus, read_precision
from shopstream.incidents.verdicts import read_verdicts
from shopstream.response.blocklist import BlocklistFormat, read_blocklist, render
from shopstream.response.ocsf import cloud_event

SIZE, MINUTE = 10_000, 60_000
DAY = timedelta(days=1)


def detection(start_ms=0, key=USER, *, rule="user_rate", label="owasp.oat-011", **changes):
    facts = {"tags": (label, "attack.t1595"), "measures": {"events": 40}, "suppress_for_ms": 5 * MINUTE}
    return make_detection(start_ms, key, rule=rule, **(facts | {"verdict": "bot" if key else None} | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "incidents.db"


@pytest.fixture
def store(path):
    opened = sqlite_desk(path)
    yield opened
    opened.close()


@pytest.fixture
def run(tmp_path):
    def invoke(*words):
        return CliRunner().invoke(app, ["--home", str(tmp_path), *words])

    return invoke


def campaign(count=6, start_ms=0):
    return [detection(start_ms, {"user_id": str(user)}) for user in range(count)]


def verdicts(store):
    return [(row["actor"], row["verdict"]) for row in read_verdicts(store).to_pylist()]


def test_verdicts_say_who_from_when_until_when_and_why(store):
    store.apply([detection(), detection(1_000, rule="user_breadth")], 0)
    first, second = read_verdicts(store).to_pylist()
    assert first == {
        "actor_kind": "user_id",
        "actor": "7",
        "verdict": "bot",
        "from_time": datetime.fromtimestamp(0, UTC),
        "until_time": datetime.fromtimestamp(10, UTC),
        "why": "Too fast",
        "rule": "user_rate",
        "incident_id": store.list()[0].id,
    }
    assert second["incident_id"] == first["incident_id"]


def test_without_a_store_there_are_no_verdicts(store):
    assert read_verdicts(store).num_rows == 0


def test_a_false_positive_makes_its_actors_human_and_reopening_takes_it_back(store):
    store.apply(campaign(), 0)
    (incident,) = store.list()
    marked = store.set_status(incident.id, TriageStatus.FALSE_POSITIVE, comment="a school class")
    assert (marked.state, marked.comment) == (State.FALSE_POSITIVE, "a school class")
    assert {verdict for _, verdict in verdicts(store)} == {"human"}
    store.apply([detection(1_000, {"user_id": "99"})], 0)
    assert ("99", "human") in verdicts(store), "who joins later is judged, too"
    assert store.set_status(incident.id, TriageStatus.NONE).state is State.OPEN
    assert {verdict for _, verdict in verdicts(store)} == {"bot"}


def test_one_actor_of_a_campaign_can_be_human(store):
    store.apply(campaign(), 0)
    (incident,) = store.list()
    part = store.parts(incident.id)[3]
    assert store.set_status(part.id, TriageStatus.FALSE_POSITIVE, comment="the owner").parent == incident.id
    assert dict(verdicts(store))[part.keys["user_id"]] == "human"
    assert [verdict for _, verdict in verdicts(store)].count("bot") == 5
    assert store.get(incident.id).state is State.OPEN


def test_precision_counts_triaged_incidents(store):
    store.apply([detection(at * 60 * MINUTE) for at in range(4)], 0)
    store.apply([detection(1_000, rule="user_breadth")], 0)
    ids = sorted(incident.id for incident in store.list())
    store.set_status(ids[0], TriageStatus.RESOLVED)
    store.set_status(ids[1], TriageStatus.RESOLVED)
    store.set_status(ids[2], TriageStatus.FALSE_POSITIVE, comment="staff")
    store.set_status(ids[3], TriageStatus.ACKNOWLEDGED)
    breadth, rate = read_precision(store.list())
    assert (rate.rule, rate.incidents, rate.right, rate.wrong) == ("user_rate", 4, 2, 1)
    assert rate.precision == pytest.approx(2 / 3)
    assert rate.interval == (pytest.approx(0.2077, abs=1e-3), pytest.approx(0.9385, abs=1e-3))
    assert (breadth.incidents, breadth.right) == (1, 1)
    assert (RulePrecision("r", 3, 0, 0).precision, RulePrecision("r", 3, 0, 0).interval) == (None, (0.0, 1.0))


def blocked(store, limit=0.05, ttl=DAY):
    found = read_blocklist(store, ttl, limit)
    return {one.actor.value for one in found.blocked}, {one.actor.value: one.reason for one in found.left_out}


def test_who_may_be_genuine_is_never_blocked(store):
    shared, bots, unknown, private = "198.51.100.0/24", "203.0.113.9", "203.0.113.10", "10.0.0.1"
    store.apply(
        [
            detection(0, {"ip_net": shared}, evidence={"genuine_share": 0.4}),
            detection(0, {"ip": bots}, rule="ip_rate", evidence={"genuine_share": 0.01}),
            detection(0, {"ip": unknown}, rule="ip_rate_2"),
            detection(0, {"ip": private}, rule="ip_rate_3", evidence={"genuine_share": 0.0}),
            detection(0, {"user_id": "1"}),
        ],
        0,
    )
    yes, no = blocked(store)
    assert yes == {bots, "1"}
    assert "40" not in no[shared]
    assert "more than 5% of its traffic is estimated to be genuine" in no[shared]
    assert "not known" in no[unknown]
    assert "proxy" in no[private]
    assert shared in blocked(store, limit=0.5)[0]


def test_buyers_are_not_blocked_unless_buying_is_the_attack(store):
    store.apply([detection(), detection(0, {"user_id": "8"}, rule="cards", label="owasp.oat-001")], 0)
    for incident in store.list():
        store.set_context(incident.id, {"buyers": 1})
    yes, no = blocked(store)
    assert (yes, set(no)) == ({"8"}, {"7"})


def test_resolved_incidents_faults_and_the_past_are_not_blocked(store):
    keys = [{"user_id": str(user)} for user in range(4)]
    batch = [detection(0, key, rule=f"rule_{n}", label=f"owasp.oat-00{n + 1}") for n, key in enumerate(keys)]
    batch[3] = replace(batch[3], nature=Nature.FAULT)
    store.apply(batch, 0)
    by_user = {incident.keys["user_id"]: incident.id for incident in store.list()}
    store.set_status(by_user["0"], TriageStatus.FALSE_POSITIVE, comment="ours")
    store.set_status(by_user["1"], TriageStatus.RESOLVED)
    yes, no = blocked(store)
    assert yes == {"2"}
    assert set(no) == {"0", "1", "3"}
    store.apply([detection(48 * 60 * MINUTE, {"user_id": "9"})], 48 * 60 * MINUTE + SIZE)
    assert blocked(store)[0] == {"9"}


@pytest.fixture
def mixed(store):
    addresses = {"ip": "203.0.113.9"}, {"ip_net": "198.51.100.0/24"}, {"ip": "2001:db8::7"}
    detections = [detection(0, key, evidence={"genuine_share": 0.0}, rule=f"r{n}") for n, key in enumerate(addresses)]
    store.apply([*detections, detection(0, {"user_id": "7"})], SIZE)
    return read_blocklist(store, timedelta(hours=4), 0.05)


def test_nginx_gets_a_geo_block(mixed):
    text, left_out = render(mixed, BlocklistFormat.NGINX)
    assert "geo $shopstream_blocked {\n    default 0;\n" in text
    for network in ("203.0.113.9/32", "198.51.100.0/24", "2001:db8::7/128"):
        assert f"    {network} 1;  # until 1970-01-01T04:00:09Z, r" in text
    assert "csv" in left_out[-1].reason
    assert text.endswith("}\n")


def test_aws_waf_gets_one_set_for_each_version(mixed):
    four, six = json.loads(render(mixed, BlocklistFormat.AWS_WAF)[0])
    assert sorted(four["Addresses"]) == ["198.51.100.0/24", "203.0.113.9/32"]
    assert (four["IPAddressVersion"], four["Scope"]) == ("IPV4", "REGIONAL")
    assert (six["IPAddressVersion"], six["Addresses"]) == ("IPV6", ["2001:db8::7/128"])


def test_crowdsec_gets_decisions_with_what_is_left_of_the_time(mixed):
    decisions = {one["value"]: one for one in json.loads(render(mixed, BlocklistFormat.CROWDSEC)[0])}
    assert decisions["203.0.113.9"]["scope"] == "ip"
    assert decisions["198.51.100.0/24"]["scope"] == "range"
    assert {one["type"] for one in decisions.values()} == {"ban"}
    assert decisions["203.0.113.9"]["duration"] == f"{4 * 3600}s"


def test_csv_has_everybody(mixed):
    rows = list(csv.DictReader(io.StringIO(render(mixed, BlocklistFormat.CSV)[0])))
    assert {row["kind"] for row in rows} == {"ip", "ip_net", "user_id"}


def test_the_command_says_what_was_left_out(mixed, run, tmp_path):
    result = run("blocklist", "export", "--format", "nginx", "--left-out", str(tmp_path / "kept.csv"))
    assert result.exit_code == 0, result.output
    assert "3 to block" in result.stderr
    assert "take --format csv" in result.stderr
    assert "user_id,7," in (tmp_path / "kept.csv").read_text()
    assert mixed.blocked


def test_a_finding_has_the_words_of_ocsf_and_cloudevents(store):
    store.apply([*campaign(), detection(0, {}, rule="volume", label="owasp.oat-015", evidence={"expected": 10.0})], 0)
    (incident,) = store.list()
    event = cloud_event(incident)
    assert {event[name] for name in ("specversion", "type", "subject")} == {"1.0", "shopstream.incident", incident.id}
    data = json.loads(json.dumps(event))["data"]
    assert (data["class_uid"], data["category_uid"], data["type_uid"]) == (2004, 2, 200402)
    for required in ("activity_id", "class_uid", "category_uid", "finding_info", "metadata", "severity_id", "time"):
        assert data[required]
    assert {"product", "version"} <= data["metadata"].keys()
    assert data["finding_info"]["uid"] == incident.id
    assert data["finding_info"]["attacks"][0]["technique"]["uid"] == "T1595"
    assert len(data["observables"]) == 6
    assert data["evidences"][0]["data"]["genuine_share"] == 0.25
    assert cloud_event(store.list()[0])["id"] == event["id"]
    store.set_status(incident.id, TriageStatus.ACKNOWLEDGED)
    assert cloud_event(store.list()[0])["id"] != event["id"]


def test_people_work_through_it_on_the_command_line(store, run):
    store.apply(campaign(30), 0)
    (incident,) = store.list()
    assert "campaign of 30 users" in run("incidents", "list").stdout
    shown = run("incidents", "show", incident.id[:8]).stdout
    assert "and 9 more" in shown
    assert f"shopstream incidents events {incident.id}" in shown
    assert "29 actors' episodes" in shown
    details = json.loads(run("incidents", "show", incident.id[:8], "--format", "json").stdout)
    assert (len(details["actors"]), len(details["parts"]), details["campaign"]) == (30, 29, True)
    assert "Missing option" in run("incidents", "false-positive", incident.id).stderr
    assert "a false positive" in run("incidents", "false-positive", incident.id, "-m", "class").stdout
    assert json.loads(run("incidents", "precision", "--format", "json").stdout)[0]["precision"] == 0
    assert json.loads(run("verdicts", "list", "--format", "json").stdout)[0]["verdict"] == "human"
    assert "is open" in run("incidents", "reopen", incident.id).stdout
    assert len(run("incidents", "export").stdout.splitlines()) == 1
    assert "30" in run("incidents", "list", "--format", "csv").stdout


def test_a_title_counts_actors_and_shows_figures(store):
    store.apply([replace(one, title="{who} sent {events} events") for one in campaign()], 0)
    (incident,) = store.list()
    assert title_of(incident) == f"Six users sent {incident.peak['events']:,} events"


def test_a_title_without_a_subject_names_the_campaign(store):
    store.apply(campaign(30), 0)
    (incident,) = store.list()
    assert title_of(incident) == "Too fast: 30 users"


def test_an_incident_is_explained_in_sentences(store):
    evidence = {
        "expected": 12.5, "low": 8, "high": 17, "score": 31.2, "contributions": {"level": 0.7, "cusum": 0.3},
        "excess_events": 1200, "confidence": 0.9, "baseline_age_ms": 86_400_000, "forecast_error": 0.08,
        "baseline_ms": 14 * 86_400_000,
        "composition": {"carts": [0.01, 0.05]},
    }  # fmt: skip
    store.apply([detection(0, {}, rule="volume", evidence=evidence)], 0)
    (incident,) = store.list()
    assert genuine_share(incident) == pytest.approx(12.5 / 40)
    lines = lines_of(incident)
    assert lines["expected"] == "12.5, between 8 and 17"
    assert lines["score"] == "31.2 standard deviations (level 70.0%, cusum 30.0%)"
    assert lines["confidence"] == "90.0% (volume 90%)"
    assert lines["baseline"] == (
        "The baseline was learned from 14 d of events and is 1 d old. Its average forecast error is 8.0%."
    )
    assert lines["composition"] == "carts 1.0% (normally 5.0%)"
    assert lines["difference"] == "1,200 events more than expected."
    assert next(iter(lines)) == "difference"
