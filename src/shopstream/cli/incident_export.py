"""`shopstream incidents export`."""

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from shopstream.alerting.incident import State
from shopstream.cli.output import settings_of
from shopstream.detection.detection import Severity

__all__ = ["export"]


class ExportFormat(StrEnum):
    """Whose words."""

    OCSF = "ocsf"


def export(
    ctx: typer.Context,
    *,
    fmt: Annotated[ExportFormat, typer.Option("--format", help="Whose words.")] = ExportFormat.OCSF,
    state: Annotated[list[State] | None, typer.Option(help="Only these states.")] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Only these severities.")] = None,
    source: Annotated[str, typer.Option(help="Names this installation: a URI reference.")] = "urn:shopstream",
) -> None:
    """Write incidents for other systems, one JSON object a line, the newest first.

    Each is an OCSF Detection Finding (class 2004) in a CloudEvents 1.0 envelope. The same state of an incident has the
    same id, so a receiver may be given all of them again and again. User ids and addresses are among the fields.

    Examples:
      shopstream incidents export --format ocsf > findings.jsonl
      shopstream incidents export --state open --severity critical
    """
    from shopstream.alerting import read_incidents  # noqa: PLC0415  start-up time
    from shopstream.alerting.ocsf import cloud_event  # noqa: PLC0415  likewise
    from shopstream.bootstrap import incidents_file  # noqa: PLC0415  likewise

    del fmt  # there is one as yet
    path = incidents_file(settings_of(ctx))
    for incident in read_incidents(path, states=state or (), severities=severity or ()):
        sys.stdout.write(json.dumps(cloud_event(incident, source), ensure_ascii=False) + "\n")
