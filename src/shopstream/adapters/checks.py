"""Checks of the installation, the rules, and what is in `home`, for `shopstream doctor`."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from shopstream.adapters.ports import adapters_of
from shopstream.clock import SystemClock
from shopstream.config import Settings
from shopstream.detection.allowlist import load_allow_list
from shopstream.detection.rule import load_rules
from shopstream.engine.compile import compile_window
from shopstream.errors import PermanentError
from shopstream.lakehouse.ports import LakeTable
from shopstream.models.reports import scope
from shopstream.stream.embedded import EmbeddedStream

Check = Callable[[Settings], str]
"""Returns what it found; raises a ShopstreamError that says what to do if something is wrong."""

_LEAST_FREE_BYTES = 2 << 30
_LEAST_PYTHON = (3, 11)
_MANY_FILES = 1_000


class CheckFailedError(PermanentError):
    """What is wrong, and how to fix it."""


def _python(_: Settings) -> str:
    if sys.version_info < _LEAST_PYTHON:
        raise CheckFailedError(
            f"expected Python 3.11 or newer, got {sys.version.split()[0]}; create the environment again with it"
        )
    packages = ("shopstream", "duckdb", "pyarrow", "pyiceberg", "dbt-core")
    return f"Python {sys.version.split()[0]}, {', '.join(f'{name} {version(name)}' for name in packages)}"


def _home(settings: Settings) -> str:
    home = settings.home.resolve()
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise CheckFailedError(f"{nearest} is not writable; change its owner, or give another --home")
    free = shutil.disk_usage(nearest).free
    if free < _LEAST_FREE_BYTES:
        raise CheckFailedError(
            f"expected 2 GiB of free space or more at {nearest}, got {free / 2**30:.1f}; free some, or move the home"
        )
    return f"{home}{'' if home.exists() else ' (not created yet)'}, {free / 2**30:,.0f} GiB free"


def _rules(settings: Settings) -> str:
    rules = load_rules(settings.detection.rules_path)
    for rule in rules.values():
        compile_window(rule.window_declaration())
    return f"{len(rules)} rules: {', '.join(sorted(rules))}"


def _allow_lists(settings: Settings) -> str:
    if settings.detection.allow_lists_path is None:
        return "none; nothing is suppressed"
    entries = load_allow_list(settings.detection.allow_lists_path).entries
    expired = [entry.name for entry in entries if entry.expires <= datetime.now(UTC)]
    if expired:
        raise CheckFailedError(
            f"expired, so that they suppress nothing: {', '.join(expired)}; review them, then renew or remove them"
        )
    return f"{len(entries)} entries, none expired"


def _stream(settings: Settings) -> str:
    if not settings.stream_path.exists():
        return "none yet; `shopstream simulate` creates it"
    with EmbeddedStream.open(settings.stream_path, settings.stream, SystemClock()) as stream:
        status = stream.describe()
    if status.disk_bytes > 0.9 * status.max_bytes:
        raise CheckFailedError(
            f"{status.disk_bytes / 2**20:,.0f} of {status.max_bytes / 2**20:,.0f} MiB are used, so writers will have "
            "to wait; raise stream.max_bytes, or shorten stream.retention"
        )
    return f"{status.shards} shards, {status.records:,} records, {status.disk_bytes / 2**20:,.1f} MiB"


def _engine(settings: Settings) -> str:
    lock = settings.home / "engine.lock"
    if lock.exists():
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            return "running"
    return "not running; start it with `shopstream run`"


def _lake(settings: Settings) -> str:
    if not settings.lake_path.exists():
        return "none yet; `shopstream run` creates it"
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
        missing = [file for table in LakeTable for file in lakehouse.data_files(table) if not Path(file).exists()]
        status = {table.table: table for table in lakehouse.status()}
    if missing:
        raise CheckFailedError(
            f"{len(missing)} data files are missing, the first is {missing[0]}; restore them from a backup"
        )
    events = status[LakeTable.EVENTS]
    if events.data_files > _MANY_FILES:
        raise CheckFailedError(
            f"events are spread over {events.data_files:,} files, which slows queries; run `shopstream lake compact`"
        )
    return (
        f"{events.rows:,} events in {events.data_files:,} files, {status[LakeTable.DEAD_LETTERS].rows:,} dead letters"
    )


def check_reports(settings: Settings) -> str:
    """Whether the reports are built, and when."""
    if not settings.reports_path.exists():
        return "not built yet; `shopstream build` builds them"
    built = scope(settings.reports_path)
    return f"{built.events:,} events, built {built.built_at_utc:%Y-%m-%d %H:%M} UTC in {built.timezone}"


def _notifications(settings: Settings) -> str:
    urls = settings.notify.urls
    if not urls:
        return "nobody is notified; set notify.urls, then try `shopstream notify test`"
    return f"{len(urls)} addresses"


def check_detection(settings: Settings) -> str:
    """Did detectors receive every signal in time?"""
    if finding := adapters_of(settings).late_signals():
        raise CheckFailedError(finding)
    return "no signal came too late for detectors"


COMMON_CHECKS: dict[str, Check] = {
    "environment": _python,
    "home": _home,
    "rules": _rules,
    "allow-lists": _allow_lists,
}
EMBEDDED_CHECKS: dict[str, Check] = {
    "stream": _stream,
    "engine": _engine,
    "detection": check_detection,
    "lake": _lake,
    "reports": check_reports,
    "notifications": _notifications,
}
