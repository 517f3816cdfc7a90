"""Rows of incidents as items and back, without a table: what a transaction changed, and nothing else."""

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from conformance.test_incidents import detection
from shopstream.clock import ManualClock
from shopstream.detection.detection import Severity
from shopstream.incidents.aws import _marked, _plain
from shopstream.incidents.database import open_writer, transaction
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.item import MAX_BYTES, ItemTooLargeError, check_size, size_of
from shopstream.incidents.recording import open_recorded, recorded, write_rows
from shopstream.incidents.settings import AlertingSettings
from shopstream.incidents.table import Ledger, Meta

TABLES = ("incidents", "heads", "notifications", "ordinals")
RETENTION = timedelta(days=90)
NOW_S = 1_795_000_000


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}


class Pair:
    """A store whose transactions are carried over to a second file as items, as a table would have them."""

    def __init__(self, folder):
        self.paths = folder / "first.db", folder / "second.db"
        self.seen = []
        self.second = open_writer(self.paths[1])
        clock, settings = ManualClock(NOW_S * 1_000), AlertingSettings(notify_hold=timedelta(0))
        self.store = EmbeddedIncidentStore(self.paths[0], settings, clock, ("a",), connect=self.connect)

    def connect(self, path):
        connection = open_recorded(path)
        connection.before_commit = lambda: self.carry(connection)
        return connection

    def carry(self, connection):
        found = recorded(connection, NOW_S, RETENTION)
        self.seen.append(found)
        wire = {key: item and _plain(_marked(item)) for key, item in found.changes.items()}
        with transaction(self.second, self.paths[1]):
            write_rows(self.second, wire)

    def kinds(self):
        """Of the last transaction: item → how many; what is gone counts as `gone`."""
        kinds = [item["item"] if item else "gone" for item in self.seen[-1].changes.values()]
        return {kind: kinds.count(kind) for kind in kinds}


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    yield made
    made.store.close()
    made.second.close()


def test_all_that_happens_to_incidents_is_carried_over_exactly(pair):
    store = pair.store
    (opened,) = store.apply([detection(0, verdict="bot")], 20_000)
    store.apply([detection(1_000, user=user, evidence={"x": "y" * 200_000}) for user in range(5)], 20_000)
    store.apply([detection(2_000, severity=Severity.CRITICAL), detection(0, user=None, rule="site_rate")], 20_000)
    store.apply([detection(400_000), detection(520_000)], 500_000)
    store.apply([detection(460_000)], 500_000)  # joins two
    store.acknowledge(opened.incident_id, "mine\n\t#1")
    store.describe(opened.incident_id, {"a": [1.0, None]})
    store.apply([], 1_000_000)
    assert rows(pair.paths[1]) == rows(pair.paths[0])
    store.apply([detection(100 * 86_400_000, user=9)], 100 * 86_400_000)  # retention takes the others away
    store.apply([], 102 * 86_400_000)
    kept = rows(pair.paths[0])
    assert (len(kept["incidents"]), len(kept["ordinals"]) > 5) == (1, True)
    assert rows(pair.paths[1]) == kept


def test_only_what_changed_is_written(pair):
    pair.store.apply([detection(0), detection(0, user=8, tags=("owasp.oat-001",))], 0)
    assert pair.kinds() == {"episode": 2, "head": 2, "verdict": 2, "last": 2, "notification": 1}
    pair.store.apply([detection(1_000)], 0)
    assert pair.kinds() == {"episode": 1, "head": 1, "verdict": 1}
    pair.store.apply([detection(1_000)], 0)
    assert pair.kinds() == {}


def test_what_other_connections_change_is_not_noted(pair):
    pair.store.apply([detection(0)], 0)
    with closing(open_writer(pair.paths[0])) as other:
        other.execute("UPDATE incidents SET comment = 'x'")
    pair.store.apply([detection(0)], 0)
    assert pair.kinds() == {}


def test_what_is_undone_is_not_noted(pair):
    pair.store.apply([detection(0)], 0)
    connection = pair.store._connection

    def broken():
        with transaction(connection, pair.paths[0]):
            connection.execute("UPDATE incidents SET comment = 'x'")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    pair.store.apply([detection(0)], 0)
    assert pair.kinds() == {}


def test_items_can_be_read_by_people_and_expire_when_they_are_over(pair):
    pair.store.apply([detection(0, verdict="bot")], 20_000)
    items = {item["item"]: item for item in pair.seen[-1].changes.values()}
    head, episode, verdict, told = (items[kind] for kind in ("head", "episode", "verdict", "notification"))
    assert (head["state"], head["title"], head["severity"]) == ("open", "Too fast", "high")
    assert head["gsi1sk"].startswith("1970-01-01T00:00:10.000+00:00#")
    assert (episode["keys"], episode["first_event_time"]) == ('{"user_id": "7"}', "1970-01-01T00:00:00.100+00:00")
    assert (verdict["pk"], verdict["verdict"], verdict["until_ms"]) == ("VERDICT#user_id#7", "bot", 9_901)
    assert told["gsi1pk"] == "DUE#a"
    assert not any("expires_at" in item for item in (head, episode, verdict, told))
    pair.store.apply([], 200_000)
    items = {item["item"]: item for item in pair.seen[-1].changes.values()}
    assert items["head"]["gsi1pk"] == "INCIDENTS#1970-01"
    assert {items[kind]["expires_at"] for kind in ("head", "episode", "verdict")} == {NOW_S + 90 * 86_400}


class Laid:
    """A table that keeps what is laid down, and takes every transaction."""

    def __init__(self):
        self.items, self.written = [], 0

    def put(self, items):
        self.items += items

    def query(self, pk):
        return [item for item in self.items if item["pk"] == pk]

    def write(self, operations):
        """It is not looked at."""
        self.written += len(operations)


def test_a_large_change_may_hold_compressed_texts():
    table = Laid()
    ledger = Ledger(table, ManualClock(NOW_S * 1_000))
    changes = {("SCOPE#a", f"{n:08d}#EPISODE"): {"facts_zlib": b"\x00\xff", "told": n} for n in range(150)}
    changes["SCOPE#a", "gone"] = None
    ledger.commit(Meta(0, 1, 0), changes, (), 0)
    stage = table.items[0]["pk"].removeprefix("STAGE#")
    assert ledger.staged(stage) == {key: item and {**item, "version": 1} for key, item in changes.items()}


@pytest.mark.parametrize("others", [0, 150])
def test_a_change_with_an_item_that_is_too_large_is_refused_before_anything_is_laid_down(others):
    table = Laid()
    changes = {("SCOPE#a", f"{n:08d}#EPISODE"): {"item": "episode", "told": n} for n in range(others)}
    changes["SCOPE#a", "00000777#EPISODE"] = {"item": "episode", "incident": "a-777", "keys": "x" * 410_000}
    with pytest.raises(ItemTooLargeError, match=r"the item 'episode' of incident a-777 has 4100\d\d; .*shorter"):
        Ledger(table, ManualClock(NOW_S * 1_000)).commit(Meta(0, 1, 0), changes, (), 0)
    assert (table.items, table.written) == ([], 0)


def test_an_item_is_counted_with_its_names_as_dynamodb_counts_it():
    head = {"pk": "a", "é": b"xy", "told": 7, "rules": ["ab", "c"]}
    assert size_of(head) == 3 + 4 + 25 + (5 + 3 + 5)
    check_size({"data": b"x" * (MAX_BYTES - 4)})
    with pytest.raises(ItemTooLargeError):
        check_size({"data": b"x" * (MAX_BYTES - 3)})
