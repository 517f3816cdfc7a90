"""Past events, as a DuckDB connection to run rules on, and the ground truth of synthetic events."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import duckdb
from filelock import FileLock, Timeout

from shopstream.clock import Clock, from_ms, to_ms
from shopstream.errors import ConfigurationError, PermanentError
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ingest import ingest
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import create_views

EVENTS = "past_events"
"""The view that rules run on."""

_PREFIX = "ruletools-"


@dataclass(frozen=True, slots=True)
class History:
    """Past events of a time range.

    Args:
        connection: has the view EVENTS, with the columns of the lake's `events`, without late events, which are in no
            live window.
        from_ms, until_ms: [from, until) in epoch milliseconds; None: no limit.
    """

    connection: duckdb.DuckDBPyConnection
    from_ms: int | None = None
    until_ms: int | None = None

    def limits(self, column: str = "event_time") -> str:
        """The time range as an SQL condition."""
        sides = ((">=", self.from_ms), ("<", self.until_ms))
        parts = [
            f"{column} {sign} TIMESTAMPTZ '{from_ms(ms).isoformat(sep=' ')}'" for sign, ms in sides if ms is not None
        ]
        return " AND ".join(parts) or "TRUE"


@contextmanager
def open_history(
    lakehouse: Lakehouse,
    spill_path: Path,
    memory_bytes: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[History]:
    """The present events of a lake.

    Args:
        lakehouse: the lake.
        spill_path: folder for what does not fit into memory; made when needed, and left empty.
        memory_bytes: memory limit of DuckDB.
        since: start of the time range, aware; None: no limit.
        until: end of the time range, exclusive, likewise.
    """
    with _scratch(spill_path) as spill, closing(duckdb.connect()) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET memory_limit = ?", [f"{memory_bytes}B"])
        connection.execute("SET temp_directory = ?", [str(spill)])
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET enable_progress_bar = false")
        create_views(connection, lakehouse, [LakeTable.EVENTS])
        connection.execute(f"CREATE TEMP VIEW {EVENTS} AS FROM events WHERE NOT is_late")
        yield History(connection, to_ms(since) if since else None, to_ms(until) if until else None)


@contextmanager
def scanning(failure: str) -> Iterator[None]:
    """Turn an error of DuckDB, e.g. for lack of memory or disk, into a PermanentError that begins with `failure`."""
    try:
        yield
    except duckdb.Error as error:
        raise PermanentError(
            f"{failure}: {error}; shorten the time with --from and --to, or raise engine.memory_limit"
        ) from error


@contextmanager
def load_file(
    location: str, folder: Path, clock: Clock, progress: Callable[[int, int], None] = lambda _done, _size: None
) -> Iterator[EmbeddedLakehouse]:
    """A temporary lake of one file: read, validated and deduplicated as `lake ingest` does.

    Args:
        location: path or URL of CSV, CSV.gz, JSON lines or Parquet.
        folder: parent of the temporary folder.
        clock: for arrival times.
        progress: called with bytes read, and all bytes.

    Raises:
        PermanentError: the file is missing, damaged, or of another kind.
    """
    with (
        _scratch(folder) as home,
        closing(EmbeddedLakehouse(home / "lake", LakehouseSettings(durable=False))) as lakehouse,
    ):
        ingest(lakehouse, location, clock, lambda consumed, size, _result: progress(consumed, size))
        yield lakehouse


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder; also removes those of killed processes, whose locks are free."""
    folder.mkdir(parents=True, exist_ok=True)
    for lock in folder.glob(f"{_PREFIX}*.lock"):
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    scratch = folder / f"{_PREFIX}{uuid4().hex}"
    lock = scratch.with_suffix(".lock")
    with FileLock(lock):
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class KnownInjection:
    """An injection of the ground truth.

    Args:
        kind: kind of scenario.
        hostile: an attack; others must not be called attacks.
        from_ms, until_ms: event time, [from, until).
        actors: user ids that act in it only.
        key: its target, column → value as text; empty for the site.
    """

    kind: str
    hostile: bool
    from_ms: int
    until_ms: int
    actors: frozenset[int]
    key: Mapping[str, str]

    def explains(self, keys: Mapping[str, str], first_ms: int, last_ms: int) -> bool:
        """Whether it explains an incident with these keys and times."""
        if last_ms < self.from_ms or first_ms >= self.until_ms:
            return False
        if "user_id" in keys:
            return int(keys["user_id"]) in self.actors
        return all(keys.get(column, value) == value for column, value in self.key.items())


def read_truth(path: Path) -> list[KnownInjection]:
    """The injections of `FILE.truth.json`.

    Raises:
        ConfigurationError: the file is missing or invalid.
    """
    try:
        injections = json.loads(path.read_bytes())["injections"]
        return [
            KnownInjection(
                kind=str(injection["kind"]),
                hostile=bool(injection["hostile"]),
                from_ms=to_ms(datetime.fromisoformat(injection["from"])),
                until_ms=to_ms(datetime.fromisoformat(injection["until"])),
                actors=frozenset(injection["actors"]),
                key={str(column): str(value) for column, value in injection.get("key", {}).items()},
            )
            for injection in injections
        ]
    except OSError as error:
        raise ConfigurationError(
            f"truth file {path} cannot be read ({error.strerror}); check path and rights"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"expected {path} to be a truth file as `shopstream synthesise` writes it beside the events, got something "
            f"else ({type(error).__name__}: {error})"
        ) from error
