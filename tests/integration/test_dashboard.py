"""The page over a real home, asked by a real client."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import timedelta

import httpx
import pyarrow as pa
import pytest
from filelock import FileLock
from prometheus_client.parser import text_string_to_metric_families

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.clock import SystemClock
from shopstream.dashboard.server import serve
from shopstream.dashboard.settings import DashboardSettings
from shopstream.dashboard.sources import DataHome
from shopstream.detection.detection import Severity
from shopstream.engine.checkpoint import CheckpointStore, Manifest
from shopstream.errors import ConfigurationError
from shopstream.journeys.store import LiveFile
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.models.dbt import build
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord
from shopstream.stream.settings import StreamSettings

NOW_MS = 1_572_609_600_000  # 2019-11-01 12:00
SETTINGS = DashboardSettings(port=0, refresh=timedelta(milliseconds=100), heartbeat=timedelta(milliseconds=400))
EVIL = '<script>alert("brand")</script>'
WAIT_S = 20


class Server:
    """A page that is being served; `address` holds the token."""

    def __init__(self, home: DataHome, settings: DashboardSettings) -> None:
        self.home = home
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=serve, args=(home, settings), kwargs={"ready": self._is_ready, "stop": self._stop}
        )
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    def _is_ready(self, address: str) -> None:
        self.address = address
        self.base, _, self.token = address.partition("/?token=")
        self._ready.set()

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.base, headers=headers, timeout=WAIT_S, trust_env=False)

    @contextmanager
    def visitor(self):
        """Somebody who opened the printed address."""
        with self.client() as client:
            assert client.get("/", params={"token": self.token}).status_code == 303
            yield client

    def end(self) -> float:
        started = time.monotonic()
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return time.monotonic() - started


@contextmanager
def serving(folder, settings=SETTINGS):
    server = Server(DataHome.at(folder), settings)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Over an empty home, for tests that change nothing in it."""
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running


def feed(response):
    """(panel, value) of each server-sent event; (None, None) for a heartbeat."""
    name = None
    for line in response.iter_lines():
        if line.startswith(":"):
            yield None, None
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def until(events, panel, condition):
    """The first value of a panel that meets the condition."""
    deadline = time.monotonic() + WAIT_S
    for name, value in events:
        if name == panel and condition(value):
            return value
        assert time.monotonic() < deadline, f"{panel} never came"
    raise AssertionError("the feed ended")


def panels_of(html: str) -> dict[str, object]:
    text = re.search(r'<script type="application/json" id="panels">(.*?)</script>', html, re.DOTALL)
    assert text
    return {name: json.loads(panel) for name, panel in json.loads(text[1]).items()}


def add_incident(folder, user="7", severity=Severity.HIGH):
    found = make_detection(
        NOW_MS,
        {"user_id": user},
        title="One user sends events faster than a person clicks",
        severity=severity,
        measures={"events": 1234},
    )
    with closing(sqlite_desk(folder / "incidents.db")) as store:
        store.apply([found], NOW_MS + 10_000)


def live_panels(shoppers=3, brand="acme"):
    top = {"views": 5, "carts": 1, "purchases": 0, "revenue": "0"}
    tops = {"products": [{"product_id": 1, "category": EVIL, "brand": brand, **top}], "categories": [], "brands": []}
    return {
        "sessions": {"active": shoppers, "shoppers": shoppers, "with_cart": 1, "bought": 0, "newest": []},
        "funnel": [],
        "top": {"15m": tops, "60m": tops},
        "carts": {"carts": 1, "lines": 1, "value": "10.0000", "largest": []},
    }


def checkpoint(folder, counters):
    manifest = Manifest(generation=1, positions={}, watermark_ms=NOW_MS, newest_ms={}, counters=counters, tables={})
    store = CheckpointStore(folder / "checkpoint")
    store.stage(manifest, lambda path: path.write_bytes(b""), {"dead_letters": pa.table({"a": [1]})})
    store.promote(manifest)


COUNTERS = {"events_read": 100, "events_kept": 90, "duplicates": 7, "late": 4, "dead_letters": 3}

# The token


@pytest.mark.parametrize("path", ["/", "/events", "/metrics", "/plotly.js", "/static/app.js", "/nowhere"])
def test_without_the_token_nothing_is_shown(server, path):
    with server.client() as client:
        answer = client.get(path)
    assert answer.status_code == 401
    assert "shopstream dashboard" in answer.text


def test_health_of_the_server_needs_no_token(server):
    with server.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("shown", ["", "x", "\u00e9", "{token}x", "{token}\u00e9"])
def test_another_token_is_refused(server, shown):
    shown = shown.format(token=server.token)
    with server.client() as client:
        assert client.get("/", params={"token": shown}).status_code == 401
        bearer = f"Bearer {shown}".strip().encode()
        assert client.get("/metrics", headers=[(b"authorization", bearer)]).status_code == 401


def test_the_token_in_the_address_is_swapped_for_a_cookie_that_scripts_and_other_sites_cannot_use(server):
    with server.client() as client:
        answer = client.get("/", params={"token": server.token})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert server.token not in cookie
        page = client.get("/")
    assert page.status_code == 200
    assert server.token not in page.text


def test_a_visitor_from_another_site_gets_a_page_that_reloads(server):
    with server.client() as client:
        answer = client.get("/", params={"token": server.token}, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200
        assert 'http-equiv="refresh"' in answer.text
        assert server.token not in answer.text
        assert client.get("/").status_code == 200


def test_a_token_in_the_address_opens_the_page_alone(server):
    with server.client() as client:
        assert client.get("/metrics", params={"token": server.token}).status_code == 401


def test_a_damaged_cookie_is_refused(server):
    with server.visitor() as client:
        name = next(iter(client.cookies))
    for value in ("x", "é"):
        cookie = f"{name}={value}; other=é".encode("latin-1")
        with server.client() as client:
            assert client.get("/", headers=[(b"cookie", cookie)]).status_code == 401


def test_the_token_file_is_its_owners_and_the_same_at_the_next_start(tmp_path):
    with serving(tmp_path) as first:
        token = first.token
    assert (tmp_path / "dashboard.token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["dashboard.token"]
    with serving(tmp_path) as second:
        assert second.token == token


# The browser


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:1@evil.example"])
def test_requests_to_another_name_are_refused(server, host):
    with server.client(Authorization=f"Bearer {server.token}", Host=host) as client:
        assert client.get("/").status_code == 400
        assert client.get("/healthz").status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8787", "[::1]:1"])
def test_loopback_names_are_answered(server, host):
    with server.client(Authorization=f"Bearer {server.token}", Host=host) as client:
        assert client.get("/").status_code == 200


def test_configured_host_names_are_answered(tmp_path):
    settings = SETTINGS.model_copy(update={"names": ("shop.example",)})
    with serving(tmp_path, settings) as server, server.client(Host="shop.example") as client:
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/static/app.js", "/nowhere"])
def test_every_response_forbids_foreign_scripts_and_framing(server, path):
    with server.visitor() as client:
        headers = client.get(path).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_nothing_of_the_page_is_kept_by_caches(server):
    with server.visitor() as client:
        assert client.get("/").headers["cache-control"] == "no-store"
        assert client.get("/static/style.css").headers["cache-control"] == "no-cache"


def test_charts_come_from_the_installed_plotly_and_are_kept_by_the_browser(server):
    with server.visitor() as client:
        answer = client.get("/plotly.js")
        assert "plotly.js v" in answer.text[:200]
        assert "immutable" in answer.headers["cache-control"]
        again = client.get("/plotly.js", headers={"If-None-Match": answer.headers["etag"]})
    assert answer.headers["content-type"].startswith("text/javascript")
    assert again.status_code in {200, 304}


def test_the_page_loads_only_its_own_resources(server):
    with server.visitor() as client:
        html = client.get("/").text
        linked = re.findall(r'(?:src|href)="([^"#]+)"', html)
        assert linked
        assert all(link.startswith("/") for link in linked)
        assert {client.get(link).status_code for link in linked} == {200}


# What is shown


def test_an_empty_home_says_which_commands_to_run(server):
    with server.visitor() as client:
        html = client.get("/").text
    command = server.home.command
    for words in ("simulate day.parquet", "run", "build"):
        assert f"{command} {words}" in html
    panels = panels_of(html)
    assert panels["live"] is None
    assert panels["reports"] is None
    assert panels["incidents"]["total"] == 0
    assert panels["health"]["counters"]["events_read"] == 0


def test_commands_on_the_page_name_a_home_that_is_not_the_usual_one(tmp_path):
    assert DataHome.at(tmp_path / "a b").command == f"shopstream --home '{tmp_path}/a b'"


def test_texts_of_events_are_data_never_markup(tmp_path):
    LiveFile(tmp_path / "live.json").publish(live_panels(brand=EVIL), NOW_MS)
    with serving(tmp_path) as server, server.visitor() as client:
        html = client.get("/").text
        assert "<script>alert" not in html
        assert panels_of(html)["live"]["top"]["60m"]["products"][0]["brand"] == EVIL
        for name in ("app", "bind", "charts", "format", "state"):
            script = client.get(f"/static/{name}.js").text
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_an_incident_carries_evidence_and_the_command_that_shows_its_events(tmp_path):
    add_incident(tmp_path)
    with serving(tmp_path) as server, server.visitor() as client:
        panel = panels_of(client.get("/").text)["incidents"]
    (row,) = panel["rows"]
    assert (panel["ongoing"], row["severity"], row["state"], row["who"]) == (1, "high", "open", "user_id 7")
    assert (row["observed"], row["threshold"]) == ("1,234 events in 10 s", "events > 15")
    assert row["first"] == "2019-11-01T12:00:00Z"
    assert row["evidence"].startswith(f"shopstream --home {tmp_path} query 'select ")


def test_a_foreign_file_is_reported_and_blocks_no_other_panel(tmp_path):
    (tmp_path / "incidents.db").write_bytes(b"not a database, by far" * 100)
    LiveFile(tmp_path / "live.json").publish(live_panels(), NOW_MS)
    with serving(tmp_path) as server, server.visitor() as client:
        panels = panels_of(client.get("/").text)
        assert "incidents.db" in panels["incidents"]["error"]
        assert panels["live"]["sessions"]["shoppers"] == 3
        assert client.get("/metrics").status_code == 503


def test_the_reports_are_drawn_from_the_marts_and_followed_when_replaced(tmp_path, lake_events):
    rows = lake_events(1, 50)
    brand = pa.array([EVIL] * rows.num_rows)
    rows = rows.set_column(rows.schema.get_field_index("brand"), "brand", brand)
    reports = tmp_path / "reports.duckdb"
    with closing(EmbeddedLakehouse(tmp_path / "lake")) as lake:
        lake.append(LakeTable.EVENTS, rows, {"shard-0": 1})
        build(lake, tmp_path / "built.duckdb", "UTC")
    with serving(tmp_path) as server, server.visitor() as client, client.stream("GET", "/events") as response:
        events = feed(response)
        assert until(events, "reports", lambda _value: True) is None
        (tmp_path / "built.duckdb").replace(reports)
        panel = until(events, "reports", bool)
    assert panel["unique_visitors"]["rows"][0]["visitors"] == 50
    assert panel["scope"]["in_lake"] == 50
    assert [row["brand"] for row in panel["brand_marketing"]["rows"]] == [EVIL]
    assert {slot["weekday_name"] for slot in panel["slots"]} == {"Friday"}
    assert panel["cart_days"]
    assert sum(row["views"] for row in panel["categories"]) == panel["unique_visitors"]["rows"][0]["views"]


# The feed


def test_the_feed_begins_with_every_panel(server):
    with server.visitor() as client, client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = feed(response)
        names = {next(events)[0] for _ in range(5)}
    assert names == {"health", "incidents", "live", "reports", "failure"}


def test_a_quiet_feed_shows_that_it_lives(server):
    with server.visitor() as client, client.stream("GET", "/events") as response:
        until(feed(response), None, lambda value: value is None)


def test_a_new_incident_is_pushed(tmp_path):
    with serving(tmp_path) as server, server.visitor() as client, client.stream("GET", "/events") as response:
        events = feed(response)
        until(events, "incidents", lambda value: value["total"] == 0)
        add_incident(tmp_path)
        assert until(events, "incidents", lambda value: value["total"] == 1)["rows"][0]["state"] == "open"
        add_incident(tmp_path, user="8")
        until(events, "incidents", lambda value: value["total"] == 2)


def test_live_journeys_are_pushed_to_all_viewers(tmp_path):
    store = LiveFile(tmp_path / "live.json")
    with (
        serving(tmp_path) as server,
        server.visitor() as client,
        client.stream("GET", "/events") as one,
        client.stream("GET", "/events") as other,
    ):
        watchers = feed(one), feed(other)
        for shoppers in (5, 6):
            store.publish(live_panels(shoppers), NOW_MS)
            for events in watchers:
                value = until(events, "live", lambda v, n=shoppers: v and v["sessions"]["shoppers"] == n)
                assert value["as_of"] == "2019-11-01T12:00:00Z"


def test_an_open_feed_does_not_delay_the_shutdown(tmp_path):
    with serving(tmp_path) as server, server.visitor() as client, client.stream("GET", "/events") as response:
        events = feed(response)
        next(events)
        assert server.end() < 5
        for _ in events:  # ends, whole
            pass


def test_writers_are_not_blocked_and_a_locked_file_is_still_read(tmp_path):
    add_incident(tmp_path)
    with (
        serving(tmp_path) as server,
        server.visitor() as client,
        client.stream("GET", "/events") as response,
        closing(sqlite3.connect(tmp_path / "incidents.db", isolation_level=None, timeout=0)) as writer,
    ):
        writer.execute("BEGIN IMMEDIATE")
        assert until(feed(response), "incidents", bool)["total"] == 1
        writer.execute("ROLLBACK")


# Metrics


def metrics(server):
    with server.client(Authorization=f"Bearer {server.token}") as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_of_an_empty_home_are_zero(server):
    found = metrics(server)
    assert found["shopstream_events_read_total",] == 0
    assert found["shopstream_engine_running",] == 0
    assert found["shopstream_incidents", "open"] == 0


def test_metrics_have_counters_incidents_watermark_and_lag(tmp_path):
    checkpoint(tmp_path, COUNTERS)
    add_incident(tmp_path)
    with closing(EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(shards=1), SystemClock())) as stream:
        stream.put([NewRecord(b"{}", "1")])
        time.sleep(0.01)
        with serving(tmp_path) as server:
            found = metrics(server)
    assert {name: found[f"shopstream_{name}_total",] for name in COUNTERS} == COUNTERS
    assert found["shopstream_incidents", "open"] == 1
    assert found["shopstream_watermark_timestamp_seconds",] == NOW_MS / 1000
    (lag,) = [value for (name, *_labels), value in found.items() if name == "shopstream_lag_seconds"]
    assert 0 < lag < 60


def test_metrics_show_whether_an_engine_runs(tmp_path):
    with serving(tmp_path) as server:
        with FileLock(tmp_path / "engine.lock"):
            assert metrics(server)["shopstream_engine_running",] == 1
        assert metrics(server)["shopstream_engine_running",] == 0


# Starting


def test_an_address_beyond_loopback_has_to_be_allowed(tmp_path):
    with pytest.raises(ConfigurationError, match="--allow-remote"):
        serve(DataHome.at(tmp_path), SETTINGS.model_copy(update={"host": "192.0.2.1"}), ready=print)


def test_all_addresses_need_names(tmp_path):
    with pytest.raises(ConfigurationError, match=r"dashboard\.names"):
        serve(DataHome.at(tmp_path), SETTINGS.model_copy(update={"host": "0.0.0.0"}), ready=print, allow_remote=True)  # noqa: S104


def test_a_taken_port_is_reported_with_the_remedy(server, tmp_path):
    port = httpx.URL(server.base).port
    with pytest.raises(ConfigurationError, match="--port 0"):
        serve(DataHome.at(tmp_path), SETTINGS.model_copy(update={"port": port}), ready=print)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_command_prints_the_address_keeps_the_token_out_of_its_log_and_exits_on_a_signal(tmp_path, name):
    process = subprocess.Popen(
        [sys.executable, "-c", "from shopstream.cli import main; main()", "dashboard", "--port", "0"],
        env={**os.environ, "SHOPSTREAM_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)[0]
        with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
            assert client.get(address, follow_redirects=True).status_code == 200
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert out == ""
    assert "token=" not in err
