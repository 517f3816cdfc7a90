"""What the newest events say of a key and a time."""

import time
from contextlib import closing
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from factories import make_detection, make_event
from incident_desk import read_incidents, sqlite_desk
from shopstream.cli.incident_events import context_from_lake
from shopstream.config import load_settings
from shopstream.detection.detection import Severity
from shopstream.engine.recent import RecentEvents
from shopstream.events.schema import LAKE_FIELDS, arrow_schema
from shopstream.incidents.incident import Change, IncidentChange
from shopstream.incidents.recorder import ContextEnricher
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable

SCHEMA = arrow_schema(LAKE_FIELDS)


def events(rows, *, encoded=False):
    """Rows of (second, type, product, user, ip)."""
    made = pa.Table.from_pylist(
        [
            make_event(
                datetime.fromtimestamp(second, UTC),
                user,
                event_type=kind,
                product=product,
                category_id=product % 10,
                category_code="toys" if product % 2 else None,
                event_id=f"e{second}-{user}-{product}",
                ip=ip,
                arrival_time=datetime.fromtimestamp(second, UTC),
                is_late=False,
            )
            for second, kind, product, user, ip in rows
        ],
        schema=SCHEMA,
    )
    if encoded:
        place = SCHEMA.get_field_index("event_type")
        made = made.set_column(place, "event_type", made.column(place).dictionary_encode())
    return made


@pytest.fixture
def recent():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield RecentEvents(connection, kept_ms=600_000, kept_rows=1_000)


def test_an_actor_is_held_against_everybody_else(recent):
    bot = [(100 + second, "view", second, 7, "192.0.2.7") for second in range(30)]
    people = [(100 + n, "purchase" if n % 5 == 0 else "view", 3, 100 + n, "198.51.100.1") for n in range(20)]
    recent.keep(events(bot))
    recent.keep(events(people, encoded=True))
    found = recent.describe({"user_id": "7"}, 100_000, 129_000)
    assert found is not None
    assert (found["events"], found["users"], found["sessions"], found["buyers"]) == (30, 1, 1, 0)
    assert found["composition"] == {"purchase": [0.0, 0.2], "view": [1.0, 0.8]}
    assert found["top_actors"] == [{"kind": "user_session", "value": "s7", "events": 30, "share": 1.0}]
    assert found["top_products"][0] == {"product_id": 0, "category": None, "brand": None, "events": 1, "share": 0.0333}
    assert found["examples"][:2] == ["e100-7-0", "e101-7-1"]
    assert (found["from_ms"], found["to_ms"]) == (100_000, 129_000)
    assert found["genuine_share"] == 0.0


def test_a_derived_key_counts_who_is_behind_it(recent):
    recent.keep(events([(n, "view", 1, n % 4, f"192.0.2.{n}") for n in range(40)]))
    recent.keep(events([(n, "purchase", 1, n % 4, "198.51.100.9") for n in range(4)]))
    found = recent.describe({"ip_net": "192.0.2.0/24"}, 0, 40_000)
    assert found is not None
    assert (found["events"], found["users"], found["buyers"]) == (40, 4, 4)
    assert found["top_actors"][0] == {"kind": "user_id", "value": "0", "events": 10, "share": 0.25}
    assert found["genuine_share"] == 1.0


def test_the_site_is_held_against_the_time_before(recent):
    recent.keep(events([(n, "cart", 1, n, None) for n in range(10)]))
    recent.keep(events([(n, "view", 1, n, None) for n in range(10, 30)]))
    found = recent.describe({}, 10_000, 29_000)
    assert found is not None
    assert found["composition"] == {"cart": [0.0, 1.0], "view": [1.0, 0.0]}
    assert found["genuine_share"] is None, "nobody bought before: that says nothing"


def test_what_is_gone_or_cannot_be_known_is_none(recent):
    recent.keep(events([(0, "view", 1, 7, None)]))
    recent.keep(events([(700, "view", 1, 7, None)]))
    assert recent.describe({"user_id": "7"}, 0, 1_000) is None
    assert recent.describe({"user_id": "8"}, 700_000, 701_000) is None
    assert recent.describe({"previous_product_id": "8"}, 700_000, 701_000) is None
    assert recent.describe({"user_id": "' OR true --"}, 700_000, 701_000) is None


def test_rows_are_bounded_and_late_batches_are_let_go(recent):
    recent.keep(events([(1_000, "view", n, 7, None) for n in range(2_500)]))
    found = recent.describe({}, 1_000_000, 1_000_000)
    assert found is not None
    assert found["events"] == 1_000
    recent.keep(events([(5, "view", 1, 7, None)]))
    assert recent.describe({}, 5_000, 5_000) is None


def test_the_lake_gives_the_context_that_recent_events_lack(tmp_path, recent):
    settings = load_settings(None, {"home": tmp_path})
    store = sqlite_desk(settings.incidents_path)
    store.apply([make_detection(100_000)], 0)
    store.close()
    (incident,) = read_incidents(settings.incidents_path)
    assert context_from_lake(settings, incident) is None
    bot = [(100 + n, "view", n, 7, None) for n in range(9)]
    people = [(100 + n, "purchase", 1, 50 + n, None) for n in range(9)]
    with closing(EmbeddedLakehouse(settings.lake_path, settings.lakehouse)) as lake:
        lake.append(LakeTable.EVENTS, events(bot + people), {"shard": 1})
    recent.keep(events(bot + people))
    assert context_from_lake(settings, incident) == recent.describe({"user_id": "7"}, 100_000, 109_999)


class Notes:
    """Counts what is asked and kept."""

    def __init__(self):
        self.asked, self.kept = [], {}

    def describe(self, key, *_span):
        self.asked.append(dict(key))
        return {"events": 1}

    def set_context(self, incident_id, context):
        self.kept[incident_id] = context


def change(kind, number, *, peak=10.0, root=None, severity=Severity.HIGH):
    name = f"i{number}"
    key = {"user_id": str(number)}
    return IncidentChange(kind, name, "r", severity, None, root or name, key, number, number + 1, peak)


def test_only_the_gravest_few_are_asked_about_and_again_when_they_grow():
    notes = Notes()
    enricher = ContextEnricher(notes, notes)
    parts = [change(Change.OPENED, n, root="other") for n in range(4)]
    heads = [change(Change.OPENED, n) for n in range(10, 14)]
    grave = change(Change.OPENED, 20, severity=Severity.CRITICAL)
    assert enricher.enrich([*parts, *heads, grave]) == 4
    assert [key["user_id"] for key in notes.asked] == ["20", "10", "11", "12", "13"]
    assert set(notes.kept) == {"i20", "i10", "i11", "i12", "i13"}
    assert enricher.enrich([change(Change.UPDATED, 10, peak=14.0), change(Change.UPDATED, 3, peak=99.0)]) == 0
    assert len(notes.asked) == 5
    enricher.enrich([change(Change.UPDATED, 10, peak=16.0)])
    assert len(notes.asked) == 6
    enricher.enrich([change(Change.CLOSED, 10)])
    enricher.enrich([change(Change.UPDATED, 10, peak=99.0)])
    assert len(notes.asked) == 6


def test_asking_is_quick(recent):
    recent.keep(events([(n % 600, "view", n % 50, n % 90, "192.0.2.1") for n in range(1_000)]))
    begun = time.process_time()
    for user in range(10):
        recent.describe({"user_id": str(user)}, 0, 600_000)
    assert time.process_time() - begun < 5, "it takes milliseconds; tests share the machine"
