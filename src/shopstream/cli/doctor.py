"""`shopstream doctor`."""

import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import typer
from filelock import FileLock, Timeout

from shopstream.cli.findings import TroubleError
from shopstream.cli.output import Format, FormatOption, emit, settings_of
from shopstream.config import Settings
from shopstream.errors import ShopstreamError

__all__ = ["doctor"]

_LEAST_FREE_BYTES = 2 << 30
_LEAST_PYTHON = (3, 11)
_SLOW_START = 1_000


def doctor(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Tell what is missing or wrong, and what to do about it. Ends with 1 when something is.

    In the AWS profile it looks at credentials, clock, and each stream, table, bucket, database, workgroup and topic.
    It tries out what it may do: a small object is written to the buckets and removed again.

    Examples:
      shopstream doctor
      SHOPSTREAM_PROFILE=aws shopstream doctor
      shopstream --home /srv/shop doctor --format json
    """
    settings = settings_of(ctx)
    rows = [_examine(name, check, settings) for name, check in _checks(settings).items()]
    emit(rows, fmt)
    if any(not row["ok"] for row in rows):
        raise typer.Exit(1)


def _checks(settings: Settings) -> dict[str, Callable[[Settings], str]]:
    if settings.profile == "embedded":
        return _ANYWHERE | _EMBEDDED
    from shopstream.adapters.stores import aws_extra  # noqa: PLC0415

    with aws_extra():
        from shopstream.cli.doctor_aws import CHECKS  # noqa: PLC0415  the embedded profile has no boto3

    return _ANYWHERE | CHECKS | {"reports": _reports}


def _examine(name: str, check: Callable[[Settings], str], settings: Settings) -> dict[str, object]:
    try:
        return {"check": name, "ok": True, "finding": check(settings)}
    except (TroubleError, ShopstreamError) as trouble:
        return {"check": name, "ok": False, "finding": str(trouble)}


def _python(_: Settings) -> str:
    if sys.version_info < _LEAST_PYTHON:
        raise TroubleError(
            f"expected Python 3.11 or newer, got {sys.version.split()[0]}; make the environment anew with it"
        )
    parts = ", ".join(
        f"{name} {version(name)}" for name in ("shopstream", "duckdb", "pyarrow", "pyiceberg", "dbt-core")
    )
    return f"Python {sys.version.split()[0]}, {parts}"


def _home(settings: Settings) -> str:
    home = settings.home.resolve()
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise TroubleError(f"{nearest} cannot be written to; change its owner, or give another --home")
    free = shutil.disk_usage(nearest).free
    if free < _LEAST_FREE_BYTES:
        raise TroubleError(
            f"{free / 2**30:.1f} GiB are free at {nearest}, expected 2 or more; free some or move the home"
        )
    return f"{home}{'' if home.exists() else ' (not made yet)'}, {free / 2**30:,.0f} GiB free"


def _rules(settings: Settings) -> str:
    from shopstream.detection.rule import load_rules  # noqa: PLC0415
    from shopstream.engine.compile import compile_window  # noqa: PLC0415  likewise

    rules = load_rules(settings.detection.rules_path)
    for rule in rules.values():
        compile_window(rule.window_declaration())
    return f"{len(rules)} rules: {', '.join(sorted(rules))}"


def _allow_lists(settings: Settings) -> str:
    from shopstream.cli.allowlist import expired_entries  # noqa: PLC0415  start-up time
    from shopstream.detection.allowlist import load_allow_list  # noqa: PLC0415

    if settings.detection.allow_lists_path is None:
        return "none; nothing is suppressed"
    expired = [entry.name for entry in expired_entries(settings)]
    if expired:
        raise TroubleError(
            f"expired, so that they suppress nothing: {', '.join(expired)}; look again, renew or remove them"
        )
    return f"{len(load_allow_list(settings.detection.allow_lists_path).entries)} entries, none expired"


def _stream(settings: Settings) -> str:
    from shopstream.clock import SystemClock  # noqa: PLC0415  start-up time
    from shopstream.stream.embedded import EmbeddedStream  # noqa: PLC0415  likewise

    if not settings.stream_path.exists():
        return "none yet; `shopstream simulate` makes it"
    with EmbeddedStream.open(settings.stream_path, settings.stream, SystemClock()) as stream:
        status = stream.describe()
    if status.disk_bytes > 0.9 * status.max_bytes:
        raise TroubleError(
            f"{status.disk_bytes / 2**20:,.0f} of {status.max_bytes / 2**20:,.0f} MiB are taken: writers will have to "
            "wait; raise stream.max_bytes, or shorten stream.retention"
        )
    return f"{len(status.shards)} shards, {status.records:,} records, {status.disk_bytes / 2**20:,.1f} MiB"


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
    from shopstream.adapters.stores import open_lakehouse  # noqa: PLC0415
    from shopstream.lakehouse.ports import LakeTable  # noqa: PLC0415  likewise

    if not settings.lake_path.exists():
        return "none yet; `shopstream run` makes it"
    lakehouse = open_lakehouse(settings)
    try:
        missing = [file for table in LakeTable for file in lakehouse.data_files(table) if not Path(file).exists()]
        status = {table.table: table for table in lakehouse.status()}
    finally:
        lakehouse.close()
    if missing:
        raise TroubleError(f"{len(missing)} data files are gone, the first is {missing[0]}; restore them from a copy")
    events = status[LakeTable.EVENTS]
    if events.data_files > _SLOW_START:
        raise TroubleError(
            f"events lie in {events.data_files:,} files, which slows readers; run `shopstream lake compact`"
        )
    return (
        f"{events.rows:,} events in {events.data_files:,} files, {status[LakeTable.DEAD_LETTERS].rows:,} dead letters"
    )


def _reports(settings: Settings) -> str:
    from shopstream.models.reports import scope  # noqa: PLC0415  start-up time

    if not settings.reports_path.exists():
        return "not built yet; `shopstream build` makes them"
    built = scope(settings.reports_path)
    return f"{built.events:,} events, built {built.built_at_utc:%Y-%m-%d %H:%M} UTC in {built.timezone}"


def _notifications(settings: Settings) -> str:
    urls = settings.alerting.notify_urls
    if not urls:
        return "nobody is told; set alerting.notify_urls, then try `shopstream notify test`"
    return f"{len(urls)} addresses"


_ANYWHERE: dict[str, Callable[[Settings], str]] = {
    "environment": _python,
    "home": _home,
    "rules": _rules,
    "allow-lists": _allow_lists,
}
_EMBEDDED: dict[str, Callable[[Settings], str]] = {
    "stream": _stream,
    "engine": _engine,
    "lake": _lake,
    "reports": _reports,
    "notifications": _notifications,
}
