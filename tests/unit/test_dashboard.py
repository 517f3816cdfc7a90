"""The token's file, and that template and scripts fit together."""

import asyncio
import os
import re
import threading
from datetime import timedelta
from importlib.resources import files

import pytest

from shopstream.dashboard.auth import load_token
from shopstream.dashboard.feed import Feed
from shopstream.dashboard.server import is_loopback, open_page
from shopstream.errors import StateError

SOURCES = files("shopstream.dashboard")
SHEETS = [(SOURCES / "templates" / name).read_text() for name in ("page.html.j2", "rows.html.j2")]
TEMPLATES = re.sub("{#.*?#}", "", "".join(SHEETS), flags=re.DOTALL)


def script(name):
    return (SOURCES / "static" / f"{name}.js").read_text()


def test_a_token_is_long_and_permanent(tmp_path):
    path = tmp_path / "new" / "dashboard.token"
    token = load_token(path)
    assert len(token) >= 43
    assert load_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_others_can_read_is_refused(tmp_path):
    path = tmp_path / "dashboard.token"
    load_token(path)
    path.chmod(0o644)
    with pytest.raises(StateError, match="remove it"):
        load_token(path)


def test_a_token_cut_short_is_refused(tmp_path):
    path = tmp_path / "dashboard.token"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with pytest.raises(StateError, match="at least"):
        load_token(path)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("shop", False)],  # noqa: S104
)
def test_loopback_is_distinguished_from_other_addresses(host, loopback):
    assert is_loopback(host) is loopback


def test_the_browser_is_started_without_the_token_on_its_command_line(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert open_page("http://127.0.0.1:1/?token=secret", tmp_path)
    (leaf,) = tmp_path.iterdir()
    assert opened == [leaf.as_uri()]
    assert "token=secret" in leaf.read_text()
    assert leaf.stat().st_mode & 0o777 == 0o600


def test_every_format_of_the_page_exists():
    used = set(re.findall(r'data-text="[^":]+:(\w+)"', TEMPLATES))
    known = set(
        re.findall(r"^  (\w+)(?::|,$)", script("format").partition("export const formats = {")[2], re.MULTILINE)
    )
    assert used
    assert used <= known | {"code"}


def test_every_list_of_the_page_has_a_row_template():
    wanted = set(re.findall(r'data-row="([\w-]+)"', TEMPLATES)) | {"top-products", "top-categories", "top-brands"}
    made = set(re.findall(r'<template id="([\w-]+)"', TEMPLATES))
    assert made == {name for name in wanted if not name.endswith("-")}


def test_every_chart_has_an_element():
    assert set(re.findall(r'"(chart-\w+)":', script("charts"))) == set(re.findall(r'id="(chart-\w+)"', TEMPLATES))


def test_every_table_has_a_caption():
    assert TEMPLATES.count("<table") == TEMPLATES.count("<caption")


class CountingPanels:
    def __init__(self):
        self.reads = 0
        self._changed = threading.Condition()

    def read(self):
        with self._changed:
            self.reads += 1
            self._changed.notify_all()
        return {"live": str(self.reads)}

    async def has_read(self, times):
        await asyncio.to_thread(self._wait, times)

    def _wait(self, times):
        with self._changed:
            assert self._changed.wait_for(lambda: self.reads >= times, timeout=10)


def test_nothing_is_read_without_viewers():
    async def idle():
        panels = CountingPanels()
        feed = Feed(panels, timedelta(milliseconds=1), timedelta(seconds=5))
        async with feed.running():
            await asyncio.sleep(0.05)
        return panels.reads

    assert asyncio.run(idle()) == 0


def test_a_slow_watcher_gets_the_newest_state_alone():
    async def watch():
        panels = CountingPanels()
        feed = Feed(panels, timedelta(milliseconds=1), timedelta(seconds=5))
        async with feed.running():
            changes = feed.changes()
            await anext(changes)
            first = {await anext(changes), await anext(changes)}
            await panels.has_read(20)
            second = await anext(changes)
            await changes.aclose()
        return first, second

    first, second = asyncio.run(watch())
    assert "event: failure\ndata: null\n\n" in first
    assert int(second.removeprefix("event: live\ndata: ")) >= 19


def test_a_failure_of_a_reader_is_reported_and_ends(caplog):
    class Failing(CountingPanels):
        def read(self):
            panels = super().read()
            if self.reads == 1:
                raise ZeroDivisionError
            return panels

    async def watch():
        feed = Feed(Failing(), timedelta(milliseconds=1), timedelta(seconds=5))
        failed = await feed.current()
        await asyncio.sleep(0.01)
        return failed, await feed.current()

    failed, mended = asyncio.run(watch())
    assert "ZeroDivisionError" in failed["failure"]
    assert mended["failure"] == "null"
    assert "cannot be read" in caplog.text
