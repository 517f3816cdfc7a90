"""Each shipped rule against its own events: what it must find, and whom it must leave alone.

`<rule>/events.csv` holds the events; `<rule>/expected.yml` the incidents, and `innocent` traffic with the reason why
somebody might take it for an attack.
"""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
import yaml

from shopstream.alerting import AlertingSettings, EmbeddedIncidentStore, read_incidents
from shopstream.clock import ManualClock, to_ms
from shopstream.detection import detect, load_rules
from shopstream.engine.compile import batch_sql
from shopstream.engine.signal import Signal
from shopstream.events.codec import decode

HERE = Path(__file__).parent
RULES = load_rules()
FOLDERS = sorted(folder.name for folder in HERE.iterdir() if (folder / "expected.yml").exists())


def events_of(name):
    decoded = decode([(HERE / name / "events.csv").read_bytes()], [to_ms(datetime(2026, 3, 3, tzinfo=UTC))])
    assert decoded.rejects.num_rows == 0
    return decoded.events


def incidents_of(rule, events, tmp_path):
    """The whole batch way: events, windows in plain SQL, detections, incidents."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", events)
        cursor = connection.execute(batch_sql(rule.window_declaration(), "events"))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    spans = ("start_ms", "end_ms", "first_event_ms", "last_event_ms")
    signals = [
        Signal(
            window=rule.id,
            key={column: row[column] for column in rule.key},
            **{name: row[name] for name in spans},
            measures={name: row[name] for name in rule.measures},
            final=True,
        )
        for row in rows
    ]
    store = EmbeddedIncidentStore(tmp_path / "incidents.db", AlertingSettings(), ManualClock())
    detections = detect(signals, RULES)
    store.apply(detections, max((d.end_ms + 10 * d.suppress_for_ms for d in detections), default=0))
    store.close()
    return sorted(read_incidents(tmp_path / "incidents.db"), key=lambda incident: incident.first_event_time)


def test_every_shipped_rule_has_events_to_prove_itself_on():
    assert sorted(RULES) == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_a_rule_finds_what_it_must_and_nothing_else(name, tmp_path):
    expected = yaml.safe_load((HERE / name / "expected.yml").read_text())
    found = incidents_of(RULES[name], events_of(name), tmp_path)
    assert [
        {
            "keys": dict(incident.keys),
            "first_event_time": incident.first_event_time,
            "last_event_time": incident.last_event_time,
            "detected_at_event_time": incident.detected_at_event_time,
            "windows": incident.windows,
            "peak": dict(incident.peak),
        }
        for incident in found
    ] == expected["incidents"]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_innocent_of_a_rule_are_in_its_events(name):
    expected = yaml.safe_load((HERE / name / "expected.yml").read_text())
    assert expected["innocent"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", events_of(name))
        for innocent in expected["innocent"]:
            where = " AND ".join([*(f"{column} = ?" for column in innocent["keys"]), "event_time BETWEEN ? AND ?"])
            values = [*innocent["keys"].values(), innocent["from"], innocent["until"]]
            count = connection.execute(f"SELECT count(*) FROM events WHERE {where}", values).fetchone()[0]
            assert count == innocent["events"], innocent["why"]
