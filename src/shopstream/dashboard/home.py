"""Where the page finds what it shows."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Home"]


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
    """

    stream: Path
    checkpoint: Path
    incidents: Path
    live: Path
    reports: Path
    engine_lock: Path
    token: Path
    command: str = "shopstream"

    @classmethod
    def at(cls, folder: Path, *, usual: Path = Path(".shopstream")) -> Self:
        """The files where every home has them; commands name the folder unless it is the usual one."""
        named = "" if folder == usual else f" --home {shlex.quote(str(folder))}"
        return cls(
            stream=folder / "stream.db",
            checkpoint=folder / "checkpoint",
            incidents=folder / "incidents.db",
            live=folder / "live.db",
            reports=folder / "reports.duckdb",
            engine_lock=folder / "engine.lock",
            token=folder / "dashboard.token",
            command=f"shopstream{named}",
        )
