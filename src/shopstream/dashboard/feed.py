"""The live feed: reads the data home once a second, for all viewers together."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from anyio import to_thread

from shopstream.dashboard.panels import Panels

_log = logging.getLogger(__name__)


class Feed:
    """Reads panels and sends those that changed.

    A slow viewer misses intermediate states, never the newest one; nothing is queued. Without viewers, nothing is read.

    Args:
        panels: read by the feed.
        refresh: interval of reading.
        heartbeat: longest silence towards a viewer.
    """

    def __init__(self, panels: Panels, refresh: timedelta, heartbeat: timedelta) -> None:
        self._panels = panels
        self._refresh_s = refresh.total_seconds()
        self._heartbeat_s = heartbeat.total_seconds()
        self._texts: dict[str, str] = {}
        self._versions: dict[str, int] = {}
        self._version = 0
        self._read_at = -float("inf")
        self._reading = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._viewers = 0
        self._has_viewers = asyncio.Event()
        self._stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Refresh the panels inside the context."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            await self.stop()
            await task

    async def stop(self) -> None:
        """End all feeds."""
        self._stopped = True
        self._has_viewers.set()
        async with self._changed:
            self._changed.notify_all()

    async def current(self) -> Mapping[str, str]:
        """Panel name → JSON text, at most one refresh interval old."""
        await self._refresh(only_after_s=self._refresh_s)
        return dict(self._texts)

    async def changes(self) -> AsyncIterator[str]:
        """Server-sent events: all panels first, then each change; a comment after a silence of `heartbeat`."""
        self._viewers += 1
        self._has_viewers.set()
        seen = 0
        try:
            yield "retry: 2000\n\n"
            await self._refresh(only_after_s=self._refresh_s)
            while not self._stopped:
                fresh = [name for name, version in self._versions.items() if version > seen]
                seen = self._version
                for name in fresh:
                    yield f"event: {name}\ndata: {self._texts[name]}\n\n"
                if not await self._wait_for_change(seen):
                    yield ": heartbeat\n\n"
        finally:
            self._viewers -= 1
            if not self._viewers:
                self._has_viewers.clear()

    async def _wait_for_change(self, seen: int) -> bool:
        try:
            async with asyncio.timeout(self._heartbeat_s), self._changed:
                await self._changed.wait_for(lambda: self._stopped or self._version > seen)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        while not self._stopped:
            await self._has_viewers.wait()
            started = time.monotonic()
            await self._refresh(only_after_s=0)
            spent = time.monotonic() - started
            await self._pause(max(self._refresh_s, 4 * spent))  # reading takes at most a fifth of the time

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until the feed stops."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._stopped)
        except TimeoutError:
            return

    async def _refresh(self, only_after_s: float) -> None:
        async with self._reading:
            if self._stopped or time.monotonic() - self._read_at < only_after_s:
                return
            try:
                texts = {**await to_thread.run_sync(self._panels.read), "failure": "null"}
            except Exception as error:  # noqa: BLE001  the feed survives a bug in a panel; page and log report it
                _log.exception("the data home cannot be read")
                texts = {"failure": json.dumps({"error": f"{type(error).__name__}: see the server's log"})}
            self._read_at = time.monotonic()
            changed = [name for name, text in texts.items() if self._texts.get(name) != text]
            if not changed:
                return
            self._version += 1
            for name in changed:
                self._texts[name] = texts[name]
                self._versions[name] = self._version
        async with self._changed:
            self._changed.notify_all()
