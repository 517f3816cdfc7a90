"""Data sources of the page."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, Self

from shopstream.clock import SystemClock
from shopstream.engine.checkpoint import Manifest
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.ports import IncidentStore


@dataclass(frozen=True, slots=True)
class EngineState:
    """State of the engine.

    Args:
        running: whether an engine is running.
        manifest: of its last checkpoint; None before the first.
        committed_at: time of that checkpoint.
        lag_ms: shard → age in milliseconds of the oldest record without a checkpoint, 0 if there is none.
    """

    running: bool
    manifest: Manifest | None
    committed_at: datetime | None
    lag_ms: Mapping[str, int]


class RemoteEngine(Protocol):
    """An engine on another machine, which is queried instead of local files."""

    def refresh(self) -> None:
        """Update the home's copy of live journeys; `engine` raises its errors."""
        ...

    def engine(self) -> EngineState:
        """State of the engine.

        Raises:
            ShopstreamError: the query or the last refresh failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class DataHome:
    """The files of a data home; each may be missing, and only the token is written.

    Args:
        stream: the embedded stream, for the engine's lag.
        checkpoint: the engine's checkpoints, for its counters and watermark.
        incidents: opens the incident store; the reader closes it.
        live: the live journeys.
        reports: the marts.
        engine_lock: held by a running engine.
        token: access token; created at the first start.
        command: command line for this home, for the hints on the page.
        remote: an engine on another machine; then stream, checkpoint and lock are not read.
        refresh: minimum interval between two reads of health and incidents.
    """

    stream: Path
    checkpoint: Path
    incidents: Callable[[], IncidentStore]
    live: Path
    reports: Path
    engine_lock: Path
    token: Path
    command: str = "shopstream"
    remote: RemoteEngine | None = None
    refresh: timedelta = timedelta(0)

    @classmethod
    def at(cls, folder: Path, *, usual: Path = Path(".shopstream")) -> Self:
        """The files of a home at their standard paths; commands name the folder unless it is the default."""
        named = "" if folder == usual else f" --home {shlex.quote(str(folder))}"
        return cls(
            stream=folder / "stream.db",
            checkpoint=folder / "checkpoint",
            incidents=lambda: EmbeddedIncidentStore(folder / "incidents.db", SystemClock()),
            live=folder / "live.json",
            reports=folder / "reports.duckdb",
            engine_lock=folder / "engine.lock",
            token=folder / "dashboard.token",
            command=f"shopstream{named}",
        )
