"""Each shipped rule against its own events: what it must find, and whom it must leave alone.

`<rule>/events.csv` holds the events; `<rule>/expected.yml` the incidents, and `innocent` traffic with the reason why
somebody might take it for an attack. `shopstream rules test --tests tests/rules` prints the same.
"""

from pathlib import Path

import duckdb
import pytest

from incident_desk import read_incidents, sqlite_desk
from shopstream.detection.rule import load_rules
from shopstream.detection.rule_matcher import detect
from shopstream.ruletools.rule_test import ExpectedIncident, read_test, run_rule_test, signals_of

HERE = Path(__file__).parent
RULES = load_rules()
FOLDERS = sorted(folder.name for folder in HERE.iterdir() if (folder / "expected.yml").exists())


def test_every_shipped_rule_has_a_test():
    assert sorted(RULES) == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_a_rule_finds_exactly_the_expected_incidents(name):
    result = run_rule_test(RULES[name], read_test(HERE / name))
    assert result.found == list(read_test(HERE / name).incidents)
    assert result.passed, result


@pytest.mark.parametrize("name", FOLDERS)
def test_the_incident_store_has_the_incidents_of_the_rule_test(name, tmp_path):
    case, rule = read_test(HERE / name), RULES[name]
    running = {name: rule.model_copy(update={"status": "test"})}  # one that is switched off finds nothing
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", case.events)
        detections = detect(signals_of(rule, connection, "events"), running)
    store = sqlite_desk(tmp_path / "incidents.db")
    store.apply(detections, max((d.end_ms + 10 * d.suppress_for_ms for d in detections), default=0))
    store.close()
    stored = [
        ExpectedIncident(
            keys=dict(incident.keys),
            first_event_time=incident.first_event_time,
            last_event_time=incident.last_event_time,
            detected_at_event_time=incident.detected_at_event_time,
            windows=incident.windows,
            peak=dict(incident.peak),
        )
        for incident in read_incidents(tmp_path / "incidents.db")
        if incident.rule == name  # what many of one kind are joined into stands beside them
    ]
    stored.sort(key=lambda one: (one.first_event_time, sorted(one.keys.items())))
    assert stored == run_rule_test(rule, case).found
