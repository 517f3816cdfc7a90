"""Where the page finds what it shows."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from shopstream.engine.checkpoint import Manifest

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
        """Bring the home's copies of incidents and live journeys up to date; trouble is told by `engine`."""
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
        incidents: the incident store.
        live: the live journeys.
        reports: the marts.
        engine_lock: held by a running engine.
        token: what lets people in; made at the first start.
        command: how a person calls the program for this home, for the hints on the page.
        remote: set where the engine runs elsewhere; then stream, checkpoint and lock are not looked at.
    """

    stream: Path
    checkpoint: Path
    incidents: Path
    live: Path
    reports: Path
    engine_lock: Path
    token: Path
    command: str = "shopstream"
    remote: Remote | None = None

    @classmethod
    def at(cls, folder: Path, *, usual: Path = Path(".shopstream")) -> Self:
        """The files where every home has them; commands name the folder unless it is the usual one."""
        named = "" if folder == usual else f" --home {shlex.quote(str(folder))}"
        return cls(
            stream=folder / "stream.db",
            checkpoint=folder / "checkpoint",
            incidents=folder / "incidents.db",
            live=folder / "live.json",
            reports=folder / "reports.duckdb",
            engine_lock=folder / "engine.lock",
            token=folder / "dashboard.token",
            command=f"shopstream{named}",
        )
