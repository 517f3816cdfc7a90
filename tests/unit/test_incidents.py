"""The embedded incident store beyond `conformance/test_incidents.py`: episodes, people, readers, commands."""

import json
import shlex
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.cli import app
from shopstream.clock import ManualClock
from shopstream.detection.detection import Severity
from shopstream.errors import StateError
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.incident import Change, State, TriageStatus

QUIET, SIZE = 60_000, 10_000


def detection(start_ms, events=20, *, user=7, **changes):
    facts = {
        "key": {} if user is None else {"user_id": str(user)},
        "first_event_ms": start_ms + 100,
        "last_event_ms": start_ms + SIZE - 100,
        "measures": {"events": events},
    }
    return make_detection(start_ms, **(facts | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "incidents.db"


@pytest.fixture
def store(path):
    opened = sqlite_desk(path)
    yield opened
    opened.close()


def changes_of(changes):
    return [change.change for change in changes]


def test_windows_that_follow_each_other_are_one_incident(store):
    assert changes_of(store.apply([detection(1_000), detection(2_000, 30)], 5_000)) == [Change.OPENED]
    assert changes_of(store.apply([detection(3_000, 25)], 13_000)) == [Change.UPDATED]
    (incident,) = store.list()
    assert incident.windows == 3
    assert incident.peak == {"events": 30}
    assert incident.peak_start == datetime.fromtimestamp(2, UTC)
    assert incident.first_event_time == datetime.fromtimestamp(1.1, UTC)
    assert incident.last_event_time == datetime.fromtimestamp(12.9, UTC)
    assert incident.detected_at_event_time == datetime.fromtimestamp(11, UTC)
    assert incident.state is State.OPEN


def test_the_quiet_time_itself_still_belongs_to_the_incident(store):
    store.apply([detection(0), detection(SIZE + QUIET)], 0)
    assert len(store.list()) == 1
    store.apply([detection(3 * (SIZE + QUIET) + 1)], 0)
    assert len(store.list()) == 2


def test_rules_and_keys_are_apart(store):
    batch = [detection(0), detection(0, user=8), detection(0, user=9, rule="other"), detection(0, user=None)]
    store.apply([replace(d, tags=(f"owasp.oat-00{n}",)) for n, d in enumerate(batch)], 0)
    assert {(i.rule, i.key_kind, i.keys.get("user_id")) for i in store.list()} == {
        ("user_burst", "user_id", "7"),
        ("user_burst", "user_id", "8"),
        ("other", "user_id", "9"),
        ("user_burst", "site", None),
    }


def test_a_higher_severity_raises_and_a_lower_one_does_not_calm(store):
    store.apply([detection(0)], 0)
    assert changes_of(store.apply([detection(1_000, severity=Severity.CRITICAL)], 0)) == [Change.RAISED]
    assert changes_of(store.apply([detection(2_000, severity=Severity.LOW)], 0)) == [Change.UPDATED]
    assert store.list()[0].severity is Severity.CRITICAL


def test_the_words_of_an_edited_rule_come_from_the_newest_window(store):
    store.apply([detection(5_000, rule_version="v2", threshold="events > 20", title="New")], 0)
    store.apply([detection(0)], 0)
    (incident,) = store.list()
    assert (incident.rule_version, incident.threshold, incident.title) == ("v2", "events > 20", "New")


def test_money_ranks_by_value_and_not_by_letters(store):
    store.apply([detection(0, measures={"value": "9.50"}), detection(1_000, measures={"value": "10.00"})], 0)
    assert store.list()[0].peak == {"value": "10.00"}


def test_a_measure_without_value_ranks_below_all(store):
    store.apply([detection(0, measures={"x": None, "y": "a"}), detection(1_000, measures={"x": -5, "y": "b"})], 0)
    assert store.list()[0].peak == {"x": -5, "y": "b"}


def test_a_person_acknowledges_and_resolves_and_the_engine_leaves_that_alone(store):
    store.apply([detection(0)], 0)
    incident_id = store.list()[0].id
    assert store.set_status(incident_id[:6], TriageStatus.ACKNOWLEDGED, comment="on it").state is State.ACKNOWLEDGED
    store.apply([detection(1_000)], 0)
    incident = store.get(incident_id)
    assert (incident.status, incident.comment, incident.windows) == (TriageStatus.ACKNOWLEDGED, "on it", 2)
    assert incident.status_at == datetime.fromtimestamp(5, UTC)
    assert store.set_status(incident_id, TriageStatus.RESOLVED).comment == "on it"
    assert store.get(incident_id).state is State.RESOLVED
    assert store.get(incident_id).ongoing


def test_an_id_that_fits_none_or_several_is_reported(store):
    store.apply([detection(0), detection(0, user=8), detection(500_000)], 0)
    with pytest.raises(StateError, match="no incident has the id 'zzz'"):
        store.set_status("zzz", TriageStatus.RESOLVED)
    scope = next(i.id for i in store.list() if i.id.endswith("-2")).partition("-")[0]
    with pytest.raises(StateError, match="several incidents fit"):
        store.get(scope)
    assert store.get(f"{scope[:8]}-2").id == f"{scope}-2"
    with pytest.raises(StateError, match="no incident"):
        store.get("")


def test_idle_calls_touch_no_disk(store, path):
    store.apply([detection(0)], 5_000)
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    for watermark in range(5_000, 50_000, 1_000):
        assert store.apply([], watermark) == []
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


def test_readers_find_nothing_where_there_is_no_store(path):
    store = EmbeddedIncidentStore(path, ManualClock())
    assert store.list() == []
    assert store.count() == dict.fromkeys(State, 0)
    assert not path.exists()
    with pytest.raises(StateError, match="none yet"):
        store.get("abc")


def test_readers_filter_and_sort(store):
    store.apply([detection(0), detection(500_000, user=8, severity=Severity.LOW)], 0)
    store.apply([detection(0, user=9, rule="other")], 0)
    store.set_status(store.list(rules=["other"])[0].id, TriageStatus.RESOLVED)
    assert [i.keys["user_id"] for i in store.list(limit=1)] == ["8"]
    assert [i.severity for i in store.list(severities=[Severity.LOW])] == [Severity.LOW]
    assert [i.rule for i in store.list(states=[State.RESOLVED])] == ["other"]
    assert store.list(states=[State.CLOSED]) == []
    assert store.count()[State.OPEN] == 2


def test_a_reader_in_another_process_sees_what_is_written_while_the_writer_continues(store, path):
    code = (
        "import sys; from pathlib import Path; from shopstream.clock import SystemClock\n"
        "from shopstream.incidents.embedded import EmbeddedIncidentStore\n"
        "print(len(EmbeddedIncidentStore(Path(sys.argv[1]), SystemClock()).list()))"
    )
    for count in (1, 2):
        store.apply([detection(0, user=count)], 0)
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(count)


def test_a_foreign_file_is_refused(path):
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StateError, match="no incident store"):
        EmbeddedIncidentStore(path, ManualClock())


def test_a_store_of_another_version_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match="got version 99"):
        EmbeddedIncidentStore(path, ManualClock())


def test_the_evidence_command_survives_shell_and_sql(store):
    nasty = 'it\'s "$(touch /tmp/x)" `y`'
    store.apply([detection(0, key={"user_agent": nasty}, key_kind="user_agent")], 0)
    (incident,) = store.list()
    words = shlex.split(incident.evidence_command)
    assert words[:2] == ["shopstream", "query"]
    assert words[2] == incident.evidence_sql
    assert "user_agent = 'it''s \"$(touch /tmp/x)\" `y`'" in words[2]


def test_numbers_stand_bare_in_the_evidence(store):
    store.apply([detection(0)], 0)
    (incident,) = store.list()
    assert "where user_id = 7 and event_time between '1970-01-01 00:00:00.100+00:00' and" in incident.evidence_sql


def test_five_thousand_actors_at_once_are_one_quick_transaction(store):
    batch = [detection(0, user=user) for user in range(5_000)]
    started = time.process_time()
    assert len(store.apply(batch, 0)) == 5_000
    spent = time.process_time() - started
    (campaign,) = store.list(limit=10)
    assert (campaign.campaign, len(campaign.actors), campaign.episodes) == (True, 5_000, 5_000)
    assert spent < 2, "an order of magnitude above what it takes, because tests share the machine"


@pytest.fixture
def run(tmp_path, store):
    def invoke(*words):
        return CliRunner().invoke(app, ["--home", str(tmp_path), "incidents", *words])

    store.apply([detection(0), detection(0, user=8, rule="other", severity=Severity.LOW)], 0)
    return invoke


def test_the_list_has_the_promised_fields(run):
    (first, _) = json.loads(run("list", "--format", "json").stdout)
    for name in (
        *("id", "rule", "key_kind", "keys", "severity", "first_event_time", "last_event_time"),
        *("detected_at_event_time", "state"),
    ):
        assert name in first
    assert first["keys"] == {"user_id": "7"}
    assert first["state"] == "open"


def test_the_list_is_filtered_by_its_options(run):
    assert [row["rule"] for row in json.loads(run("list", "--severity", "low", "--format", "json").stdout)] == ["other"]
    assert json.loads(run("list", "--state", "closed", "--format", "json").stdout) == []
    assert "No incident matches these filters" in run("list", "--state", "closed").stdout
    assert run("list", "--format", "csv").stdout.count("\n") == 3


def test_a_person_works_through_the_list(run, store):
    incident_id = store.list(rules=["user_burst"])[0].id
    assert "acknowledged" in run("ack", incident_id[:7], "--comment", "a [partner]").stdout
    shown = run("show", incident_id[:7]).stdout
    assert "a [partner]" in shown
    assert "shopstream query" in shown
    resolved = json.loads(run("resolve", incident_id, "--format", "json").stdout)
    assert (resolved["state"], resolved["ongoing"]) == ("resolved", True)
    assert json.loads(run("show", incident_id, "--format", "json").stdout)["events"] is None


def test_people_cannot_make_a_store_by_mistyping_the_home(tmp_path):
    result = CliRunner().invoke(app, ["--home", str(tmp_path / "typo"), "incidents", "ack", "abc"])
    assert isinstance(result.exception, StateError)
    assert not (tmp_path / "typo").exists()


def test_a_command_that_needs_no_rules_loads_no_sql_parser():
    code = "import sys, shopstream.cli; sys.exit('sqlglot' in sys.modules or 'apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
