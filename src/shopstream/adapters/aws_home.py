"""What the page shows where the engine runs on AWS: copies of incidents and live journeys, and the engine's state."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Lock

from shopstream.adapters.aws import fetch_reports, open_checkpoints, open_live, open_stream
from shopstream.adapters.stores import open_incidents
from shopstream.clock import SystemClock
from shopstream.config import Settings
from shopstream.dashboard.sources import EngineState, Home
from shopstream.errors import ShopstreamError
from shopstream.journeys.embedded import EmbeddedLiveStore
from shopstream.stream.lease_table import LeaseTable
from shopstream.stream.leases import Watch
from shopstream.stream.ports import lag

__all__ = ["RemoteHome", "remote_home"]

_REFRESH = timedelta(seconds=5)
_ENGINE_S = 10.0
"""Asking for the lag takes reads of each shard away from the engine."""
_REPORTS_S = 60.0
"""Marts change with a build, some times a day."""


class RemoteHome:
    """See `dashboard.home.Remote`.

    Args:
        settings: of the AWS profile.
        live: file that gets the live journeys.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, settings: Settings, live: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        kinesis = settings.aws.kinesis
        self._settings = settings
        self._clock = SystemClock()
        self._monotonic = monotonic
        self._stream = open_stream(settings, self._clock)
        self._leases = LeaseTable(kinesis.leases, f"{kinesis.events}/engine-lease")
        self._watch = Watch(kinesis.lease_time, monotonic)
        self._checkpoints = open_checkpoints(settings)
        self._remote_live, self._live = open_live(settings), EmbeddedLiveStore(live)
        self._lock = Lock()
        self._refresh_at = self._engine_at = self._reports_at = float("-inf")
        self._state: EngineState | None = None
        self._error: ShopstreamError | None = None

    def refresh(self) -> None:
        """See `dashboard.home.Remote.refresh`; every five seconds at most."""
        with self._lock:
            if self._monotonic() < self._refresh_at:
                return
            try:
                panels = self._remote_live.read()
                as_of_ms = panels.pop("as_of_ms", None)
                if isinstance(as_of_ms, int):
                    self._live.publish(panels, as_of_ms)
                if self._monotonic() >= self._reports_at:
                    fetch_reports(self._settings)
                    self._reports_at = self._monotonic() + _REPORTS_S
                self._error = None
            except ShopstreamError as error:
                self._error = error
            self._refresh_at = self._monotonic() + _REFRESH.total_seconds()

    def engine(self) -> EngineState:
        """See `dashboard.home.Remote.engine`; as of at most ten seconds ago."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._state is None or self._monotonic() >= self._engine_at:
                self._state = self._ask()
                self._engine_at = self._monotonic() + _ENGINE_S
            return self._state

    def _ask(self) -> EngineState:
        manifest = self._checkpoints.current()
        owners = self._watch.living(self._leases.all())
        return EngineState(
            running=owners.get("engine") is not None,
            manifest=manifest,
            committed_at=self._checkpoints.committed_at(),
            lag_ms=lag(self._stream, manifest.positions if manifest else {}, self._clock),
        )


def remote_home(settings: Settings, home: Home) -> Home:
    """A home whose engine runs on AWS; the files in it are copies."""
    live = settings.home / "live.copy.db"
    remote = RemoteHome(settings, live)
    return replace(home, incidents=lambda: open_incidents(settings), live=live, remote=remote, refresh=_REFRESH)
