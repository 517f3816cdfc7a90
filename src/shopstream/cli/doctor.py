"""`shopstream doctor`."""

from typing import TYPE_CHECKING

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, settings_of
from shopstream.config import Settings
from shopstream.errors import ShopstreamError

if TYPE_CHECKING:
    from shopstream.adapters.checks import Check

__all__ = ["doctor"]


def doctor(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Check the installation and suggest fixes. Exits 1 if any check fails.

    In the AWS profile it checks credentials, the clock, and each stream, table, bucket, database, workgroup and topic.
    It tests permissions, too: it writes a small object to each bucket and deletes it again.

    Examples:
      shopstream doctor
      SHOPSTREAM_PROFILE=aws shopstream doctor
      shopstream --home /srv/shop doctor --format json
    """
    settings = settings_of(ctx)
    rows = [_run(name, check, settings) for name, check in adapters_of(settings).checks().items()]
    emit(rows, fmt)
    if any(not row["ok"] for row in rows):
        raise typer.Exit(1)


def _run(name: str, check: "Check", settings: Settings) -> dict[str, object]:
    try:
        return {"check": name, "ok": True, "finding": check(settings)}
    except ShopstreamError as error:
        return {"check": name, "ok": False, "finding": str(error)}
    except Exception as error:  # noqa: BLE001  a check that breaks is a finding too, and the others go on
        return {"check": name, "ok": False, "finding": f"the check broke off with {type(error).__name__}: {error}"}
