"""The live view in SQLite: written by the engine's process, read by the dashboard and the command line."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

__all__ = ["EmbeddedLiveStore"]


class EmbeddedLiveStore:
    """One small SQLite file; nothing in it is the only copy of anything."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # derived data: rebuilt after a crash
        connection.execute("CREATE TABLE IF NOT EXISTS panel (name TEXT PRIMARY KEY, body TEXT NOT NULL)")
        return connection

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace panels in one transaction."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = [(name, json.dumps(body, default=str)) for name, body in {**panels, "as_of_ms": as_of_ms}.items()]
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO panel VALUES (?, ?)", rows)
            connection.execute("COMMIT")

    def read(self) -> dict[str, object]:
        """All panels; empty when nothing was published yet. Cannot write, and does not hold up who does."""
        if not self._path.exists():
            return {}
        uri = f"{self._path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'panel'").fetchone():
                return {}  # another process is just making it
            return {name: json.loads(body) for name, body in connection.execute("SELECT name, body FROM panel")}

    def close(self) -> None:
        """Nothing waits."""
