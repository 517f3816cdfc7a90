"""`shopstream rules test | explain | backtest`, as people who write rules use them, over an attack that is known."""

import csv
import io
import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from incident_desk import sqlite_desk
from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.cli import app
from shopstream.config import Settings
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.rule import load_rules
from shopstream.detection.rule_matcher import detect
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.signals import Signal
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import create_views
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.faults_and_surges import FlashSale
from shopstream.simulation.replay import ReplaySettings, replay
from shopstream.simulation.synthesis import DEFAULT_START, Synthesis, SynthesisSettings

SCRAPER = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=10), 2, 0.4)
FLOOD = Flood(DEFAULT_START + timedelta(hours=14), timedelta(minutes=3), 60, 3_000)
SALE = FlashSale(DEFAULT_START + timedelta(hours=17), timedelta(hours=1), 2)
RULE = """\
title: Looks and never buys
id: looker
description: Many views of one user in ten minutes, and no purchase.
level: low
falsepositives: [a patient shopper]
key: [user_id]
window: {kind: sliding, size: 10m, slide: 1m}
measures:
  views: count(*) filter (where event_type = 'view')
  purchases: count(*) filter (where event_type = 'purchase')
condition: views > 20 and purchases = 0
suppress_for: 10m
"""
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """40,000 genuine events with two scrapers, a flood and a sale; its truth lies beside it."""
    path = tmp_path_factory.mktemp("day") / "day.csv"
    return Synthesis(SynthesisSettings(events=40_000, scenarios=(SCRAPER, FLOOD, SALE), seed=1001)).write(path)


@pytest.fixture(scope="module")
def home(day, tmp_path_factory):
    """A home with that day in its lake."""
    home = tmp_path_factory.mktemp("home")
    run(home, "lake", "ingest", day.path)
    return home


def run(home, *arguments, code=0, environment=None):
    result = CliRunner().invoke(app, ["--home", str(home), *map(str, arguments)], env=environment)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def as_json(done):
    return json.loads(done.stdout)


def scrapers(day):
    return next(sorted(map(str, truth.actors)) for truth in day.ground_truth if truth.kind == "scraper")


# list


def test_detectors_are_listed_beside_rules_with_what_people_found(home, tmp_path):
    environment = {"SHOPSTREAM_DETECTION__DETECTORS_OFF": '["burst"]', "COLUMNS": "120"}
    rows = {row["id"]: row for row in as_json(run(home, "rules", "list", "--format", "json", environment=environment))}
    assert (rows["burst"]["kind"], rows["burst"]["status"], rows["volume"]["status"]) == ("detector", "off", "on")
    assert rows["user_burst"]["precision"] is None
    found = detection()
    store = sqlite_desk(tmp_path / "incidents.db")
    store.apply([found], found.end_ms + 10 * found.suppress_for_ms)
    store.close()
    (incident,) = as_json(run(tmp_path, "incidents", "list", "--format", "json"))
    run(tmp_path, "incidents", "resolve", incident["id"])
    rows = {row["id"]: row for row in as_json(run(tmp_path, "rules", "list", "--format", "json"))}
    assert rows["user_burst"]["precision"] == "100% of 1"
    shown = run(tmp_path, "rules", "list", environment=environment).stdout
    assert "100% of 1" in shown
    assert "events > 15" in shown


def detection():
    rule = load_rules()["user_burst"]
    signal = Signal("user_burst", {"user_id": 5}, 0, 10_000, 0, 9_000, {"events": 20}, final=True)
    return detect([signal], {rule.id: rule})[0]


# backtest


def test_a_backtest_counts_incidents_actors_and_buyers(day, home):
    tried = as_json(run(home, "rules", "backtest", "user_burst", "--format", "json"))
    assert tried["incidents"] == 2
    assert tried["actors"] == 2
    assert tried["buyers"] == 0
    assert tried["windows"] > 100
    assert tried["events"] >= day.events - 1_000
    assert tried["days"] == 1.0
    assert tried["by_day"] == [{"day": "2019-11-05", "incidents": 2, "windows": tried["windows"], "actors": 2}]
    assert sorted(example["keys"]["user_id"] for example in tried["examples"]) == scrapers(day)
    assert all(example["peak"]["events"] > 15 for example in tried["examples"])


def test_the_command_of_an_example_shows_its_events(home):
    example = as_json(run(home, "rules", "backtest", "user_burst", "--format", "json", "--examples", "1"))["examples"][
        0
    ]
    sql = example["command"].removeprefix('shopstream query "').removesuffix('"')
    shown = as_json(run(home, "query", sql, "--format", "json"))
    assert len(shown) > 500
    assert {str(row["user_id"]) for row in shown} == {example["keys"]["user_id"]}


def test_known_attacks_are_found_or_listed_as_missed(day, home):
    truth = ("--truth", day.truth_path, "--format", "json")
    by_user = as_json(run(home, "rules", "backtest", "user_burst", *truth))
    assert {attack["kind"]: attack["incidents"] for attack in by_user["attacks"]} == {"scraper": 2, "flood": 0}
    assert (by_user["attacks_found"], by_user["unexplained"]) == (1, 0)
    after = {attack["kind"]: attack["after_s"] for attack in by_user["attacks"]}
    assert 0 < after["scraper"] < 60
    assert after["flood"] is None
    by_site = as_json(run(home, "rules", "backtest", "site_rate", *truth))
    assert {attack["kind"]: bool(attack["incidents"]) for attack in by_site["attacks"]}["flood"] in {True, False}
    assert by_site["actors"] is None


def test_a_sweep_is_a_table_from_strict_to_loose(home):
    done = run(home, "rules", "backtest", "user_burst", "--sweep", "events=1..21:10", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["events"] for row in rows] == ["21", "15", "11", "1"]
    assert [row["in_force"] for row in rows] == ["False", "True", "False", "False"]
    assert [int(row["windows"]) for row in rows] == sorted(int(row["windows"]) for row in rows)
    assert int(rows[-1]["actors"]) > int(rows[1]["actors"]) == 2
    assert int(rows[-1]["buyers"]) > 0
    alone = as_json(run(home, "rules", "backtest", "user_burst", "--format", "json"))
    assert int(rows[1]["windows"]) == alone["windows"]
    assert int(rows[1]["incidents"]) == alone["incidents"]


def test_the_time_range_is_limited(home):
    limits = ("--from", "2019-11-05T09:05", "--to", "2019-11-05T09:06", "--format", "json")
    tried = as_json(run(home, "rules", "backtest", "user_burst", *limits))
    assert tried["from"] >= "2019-11-05T09:05"
    assert tried["to"] < "2019-11-05T09:06"
    assert tried["windows"] < 200
    assert (
        as_json(run(home, "rules", "backtest", "user_burst", "--to", "2019-11-05", "--format", "json"))["incidents"]
        == 2
    )
    nothing = run(home, "rules", "backtest", "user_burst", "--from", "2020-01-01")
    assert "There are no events in this period" in nothing.stdout


def test_a_file_of_events_needs_no_lake(day, tmp_path):
    tried = as_json(run(tmp_path, "rules", "backtest", "user_burst", "--events", day.path, "--format", "json"))
    assert tried["incidents"] == 2
    assert not (tmp_path / "lake").exists()
    assert list((tmp_path / "spill").iterdir()) == [], "nothing is left behind"


def test_a_rule_file_that_is_not_in_force_can_be_backtested(home, tmp_path):
    (tmp_path / "looker.yml").write_text(RULE)
    done = run(home, "rules", "backtest", tmp_path / "looker.yml", "--sweep", "views=20..40:10")
    for said in ("views > 20 AND purchases = 0", "would have fired", "Thresholds", "Days with incidents", "The first"):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no_such_rule",), "expected the id of a rule"),
        (("user_burst", "--from", "soon"), "expected --from as a day"),
        (("user_burst", "--sweep", "events"), "measure=from..to:step"),
        (("user_burst", "--sweep", "carts=1..2"), "expected a measure of rule user_burst"),
        (("user_burst", "--sweep", "events=9..1"), "go up by a step"),
        (("user_burst", "--sweep", "events=1..9999"), "at most 200 values"),
        (("user_burst", "--truth", "/nowhere"), "cannot be read"),
        (("user_burst", "--events", "/nowhere.csv"), "found none"),
    ],
)
def test_invalid_backtest_options_are_reported(home, arguments, said):
    done = run(home, "rules", "backtest", *arguments, code=1)
    assert said in str(done.exception)


def test_a_home_without_a_lake_is_reported(tmp_path):
    assert "lake ingest FILE" in str(run(tmp_path, "rules", "backtest", "user_burst", code=1).exception)


# explain


def test_a_key_that_fired_is_explained_with_its_strongest_window(day, home):
    found = as_json(run(home, "rules", "explain", "user_burst", "--actor", scrapers(day)[0], "--format", "json"))
    assert found["met"] > 50
    assert found["windows"] > found["met"]
    (part,) = found["parts"]
    assert part["held"]
    assert part["windows"] == found["met"]
    assert part["at_closest"] == found["measures"]["events"]
    assert part["best"] == part["at_closest"] > 15
    counted = [event for event in found["near"] if event["counted"]]
    assert len(found["near"]) == 20
    assert all(found["start"] <= event["event_time"] < found["end"] for event in counted)


def test_an_explanation_names_the_part_of_the_condition_that_failed(home, tmp_path):
    (tmp_path / "looker.yml").write_text(RULE)
    buyer = as_json(
        run(
            home,
            *("query", "--format", "json"),
            "select user_id from events group by 1 having count(*) filter (where event_type = 'purchase') > 0 "
            "and count(*) between 6 and 15 order by 1 limit 1",
        )
    )[0]["user_id"]
    arguments = ("rules", "explain", tmp_path / "looker.yml", "--actor", buyer)
    done = run(home, *arguments)
    assert "does not fire" in done.stdout
    assert "fails views > 20" in done.stdout
    rows = list(csv.DictReader(io.StringIO(run(home, *arguments, "--format", "csv").stdout)))
    assert [row["text"] for row in rows] == ["views > 20", "purchases = 0"]
    assert int(rows[0]["windows"]) == 0
    assert int(rows[1]["windows"]) > 0


def test_other_keys_and_the_whole_site_are_explained_too(home, tmp_path):
    (tmp_path / "looker.yml").write_text(RULE.replace("[user_id]", "[category_id, event_type]"))
    category = as_json(run(home, "query", "select category_id from events limit 1", "--format", "json"))[0][
        "category_id"
    ]
    keys = ("--key", f"category_id={category}", "--key", "event_type=view", "--format", "json")
    found = as_json(run(home, "rules", "explain", tmp_path / "looker.yml", *keys))
    assert found["keys"] == {"category_id": str(category), "event_type": "view"}
    assert found["windows"] > 0
    site = as_json(run(home, "rules", "explain", "site_rate", "--format", "json"))
    assert site["keys"] == {}
    assert site["windows"] > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("user_burst",), "takes --key user_id=VALUE"),
        (("user_burst", "--actor", "abc"), "expected a whole number for user_id"),
        (("user_burst", "--actor", "1"), "expected events of user_id 1"),
        (("user_burst", "--key", "user_id"), "expected --key COLUMN=VALUE"),
        (("user_burst", "--key", "brand=x"), "takes --key user_id=VALUE"),
        (("site_rate", "--actor", "1"), "neither --actor nor --key"),
    ],
)
def test_invalid_explain_options_are_reported(home, arguments, said):
    done = run(home, "rules", "explain", *arguments, code=1)
    assert said in str(done.exception)


# test


@pytest.fixture
def own(tmp_path):
    """A folder with one rule and its test: a user with 25 views in four minutes, and one with 20."""
    folder = tmp_path / "my_rules"
    case = folder / "tests" / "looker"
    case.mkdir(parents=True)
    (folder / "looker.yml").write_text(RULE)
    rows = [f"2026-03-02 10:0{n // 10}:{n % 10 * 6:02} UTC,view,{n},7,,,1.50,501,a\n" for n in range(25)]
    rows += [f"2026-03-02 10:0{n // 10}:{n % 10 * 6:02} UTC,view,{n},7,,,1.50,502,b\n" for n in range(20)]
    (case / "events.csv").write_text(HEADER + "".join(sorted(rows)))
    (case / "expected.yml").write_text("""\
incidents:
  - keys: {user_id: 501}
    first_event_time: 2026-03-02T10:00:00Z
    last_event_time: 2026-03-02T10:02:24Z
    detected_at_event_time: 2026-03-02T10:03:00Z
    windows: 8
    peak: {views: 25, purchases: 0}
innocent:
  - why: exactly on the line
    keys: {user_id: 502}
    from: 2026-03-02T10:00:00Z
    until: 2026-03-02T10:01:54Z
    events: 20
""")
    return folder


def test_a_rule_passes_its_own_test(own):
    done = run(own, "rules", "test", own)
    assert "as expected  user_id 501: 2026-03-02 10:00:00 to 10:02:24" in done.stdout
    (row,) = as_json(run(own, "rules", "test", own / "looker.yml", "--format", "json"))
    assert row == {"rule": "looker", "outcome": "passed", "expected": 1, "found": 1, "differences": []}
    environment = {"SHOPSTREAM_DETECTION__RULES_PATH": str(own)}
    assert run(own, "rules", "test", environment=environment).stdout == done.stdout
    assert "passed" in run(own, "rules", "test", "looker", environment=environment).stdout


def test_a_difference_is_printed_and_ends_with_1(own):
    (own / "looker.yml").write_text(RULE.replace("views > 20", "views > 19"))
    (row,) = as_json(run(own, "rules", "test", own, "--format", "json", code=1))
    assert (row["outcome"], row["expected"], row["found"]) == ("failed", 1, 2)
    assert [text.partition(":")[0] for text in row["differences"]] == [
        "missing",
        "not expected",
        "not expected",
        "innocent, but found",
    ]
    assert "innocent, but found: exactly on the line" in run(own, "rules", "test", own, code=1).stdout


def test_missing_harmless_events_are_a_difference(own):
    expected = own / "tests" / "looker" / "expected.yml"
    expected.write_text(expected.read_text().replace("events: 20", "events: 21"))
    (row,) = as_json(run(own, "rules", "test", own, "--format", "json", code=1))
    assert "21 events expected, 20 there" in row["differences"][0]


def test_rules_without_a_test_and_tests_without_a_rule_are_named(own):
    (own / "tests" / "looker").rename(own / "tests" / "locker")
    rows = as_json(run(own, "rules", "test", own, "--format", "json", code=1))
    assert [(row["rule"], row["outcome"]) for row in rows] == [("looker", "no test"), ("locker", "no rule")]
    done = run(own, "rules", "test", own / "looker.yml", code=1)
    assert "expected a test of looker" in str(done.exception)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("expected.yml", "windows: 8", "windows: many", "expected.yml:6: rule test expected: incidents.0.windows"),
        ("expected.yml", "why: exactly", "wy: exactly", "expected.yml:9: rule test expected: innocent.0.wy"),
        ("expected.yml", "incidents:", "incidents: [", "no YAML"),
        ("expected.yml", "2026-03-02T10:03:00Z", "later", "expected a time such as"),
        ("events.csv", "view,3,7", "look,3,7", "expected events only, got 2 invalid rows"),
    ],
)
def test_an_invalid_test_is_reported_with_its_line(own, file, old, new, said):
    path = own / "tests" / "looker" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert said in str(run(own, "rules", "test", own, code=1).exception)


# allow-lists in the running pipeline


def test_an_allowed_detection_is_kept_with_its_reason_and_opens_no_incident(day, tmp_path):
    allowed, other = scrapers(day)
    allow = tmp_path / "allow"
    allow.mkdir()
    (allow / "partners.yml").write_text(
        "entries:\n  - {id: shop_check, reason: We pay them, expires: 2020-01-01, "
        f"actors: {{user_id: [{allowed}]}}}}\n"
    )
    rules_alone = tuple(detector.id for detector in shipped_detectors(DetectionSettings()))
    detection = DetectionSettings(allow_lists_path=allow, detectors_off=rules_alone)
    settings = Settings(home=tmp_path / "home", detection=detection)
    with adapters_of(settings).open_stream() as stream:
        replay(str(day.path), stream, ReplaySettings(), bookmarks=settings.home / "replays")
    with open_pipeline(settings, with_journeys=False) as pipeline:
        pipeline.run(until_caught_up=True)
        suppressed = pipeline.progress().counters["suppressed"]
    shown = as_json(run(settings.home, "incidents", "list", "--format", "json"))
    about = {incident["keys"].get("user_id") for incident in shown if incident["rule"].startswith("user_")}
    assert other in about
    assert allowed not in about
    import duckdb  # noqa: PLC0415  only here

    with duckdb.connect() as connection:
        lakehouse = adapters_of(settings).open_lakehouse()
        create_views(connection, lakehouse, [LakeTable.DETECTIONS])
        kept = connection.execute(
            """
            SELECT allowed_by, allowed_reason, count(*), count(*) FILTER (key NOT LIKE ?)
            FROM detections WHERE allowed_by IS NOT NULL GROUP BY ALL""",
            [f'%"{allowed}"%'],
        ).fetchall()
        lakehouse.close()
    assert kept == [("partners.shop_check", "We pay them", suppressed, 0)]
    assert suppressed > 50
