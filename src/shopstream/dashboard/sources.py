"""Where the page finds what it shows."""

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

__all__ = ["EngineState", "Home", "Remote"]


@dataclass(frozen=True, slots=True)
class EngineState:
    """The engine.

    Args:
        running: some process is the engine now.
        manifest: of its last checkpoint; None before the first.
        committed_at: when that was made.
        lag_ms: shard → age in milliseconds of the oldest record that is not in a checkpoint, 0 where all are.
    """

    running: bool
    manifest: Manifest | None
    committed_at: datetime | None
    lag_ms: Mapping[str, int]


class Remote(Protocol):
    """Where the engine runs elsewhere: what to ask instead of files."""

    def refresh(self) -> None:
        """Bring the home's copies of live journeys up to date; trouble is told by `engine`."""
        ...

    def engine(self) -> EngineState:
        """How the engine is.

        Raises:
            ShopstreamError: it cannot be asked, or the last refresh failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Home:
    """The files of a data home; each may be missing, and all but the token are only read.

    Args:
        stream: the embedded stream, for how far the engine is behind.
        checkpoint: the engine's checkpoints, for its counters and watermark.
        incidents: opens the incident store; the reader closes it.
        live: the live journeys.
        reports: the marts.
        engine_lock: held by a running engine.
        token: what lets people in; made at the first start.
        command: how a person calls the program for this home, for the hints on the page.
        remote: set where the engine runs elsewhere; then stream, checkpoint and lock are not looked at.
        refresh: how often health and incidents are read at most.
    """

    stream: Path
    checkpoint: Path
    incidents: Callable[[], IncidentStore]
    live: Path
    reports: Path
    engine_lock: Path
    token: Path
    command: str = "shopstream"
    remote: Remote | None = None
    refresh: timedelta = timedelta(0)

    @classmethod
    def at(cls, folder: Path, *, usual: Path = Path(".shopstream")) -> Self:
        """The files where every home has them; commands name the folder unless it is the usual one."""
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
