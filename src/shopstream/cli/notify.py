"""`shopstream notify`: tests, lists and retries notifications."""

from contextlib import closing
from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.clock import SystemClock
from shopstream.detection.detection import Severity
from shopstream.errors import ConfigurationError, RetryableError
from shopstream.notify.message import Message


def send_test(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    r"""Send a test message to every notification target. Exits 1 if one fails.

    Targets are the addresses in notify.urls, in Apprise's syntax (https://appriseit.com): json://host/path for
    a webhook, slack://, mailto://, and many more. Addresses are secret, so output names the service and a digest.

    Examples:
      SHOPSTREAM_NOTIFY__URLS='["json://localhost:8080/alarm"]' \
        shopstream notify test
      shopstream notify test --format json
    """
    channels = adapters_of(settings_of(ctx)).open_channels()
    if not channels:
        raise ConfigurationError(
            "notify.urls is empty, so nobody is notified; set it in shopstream.toml, or by "
            "SHOPSTREAM_NOTIFY__URLS (in the AWS profile aws.dynamodb.topic_arn is enough)"
        )
    rows: list[dict[str, object]] = []
    for channel in channels:
        try:
            channel.send(
                Message("shopstream: a test", "Notifications about incidents will arrive here.", Severity.INFORMATIONAL)
            )
            rows.append({"target": channel.target, "result": "sent", "error": None})
        except RetryableError as error:
            rows.append({"target": channel.target, "result": "failed", "error": str(error)})
    emit(rows, fmt)
    if any(row["result"] == "failed" for row in rows):
        err.print("Check address, token and network; notifications to failed targets are retried.")
        raise typer.Exit(1)


def list_notifications(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of notifications; 0 shows all.")] = 50,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List notifications, newest first: sent, pending, failed.

    Examples:
      shopstream notify list
      shopstream notify list --limit 0 --format json
    """
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        found = store.notifications(limit=limit or None)
    rows: list[dict[str, object]] = []
    for one in found:
        row: dict[str, object] = {
            "incident": one.incident_id,
            "kind": one.kind,
            "target": one.target,
            "state": str(one.state),
            "attempts": one.attempts,
            "error": one.error,
        }
        if fmt is not Format.TABLE:
            row |= {
                "reference": one.reference,
                "severity": str(one.severity),
                "created": one.created,
                "due": one.due,
                "finished": one.finished,
            }
        rows.append(row)
    emit(rows, fmt, empty="No notifications: no incident has opened, or notify.urls is empty.")


def retry(ctx: typer.Context) -> None:
    """Queue failed notifications again; a running engine sends them.

    Examples:
      shopstream notify retry
    """
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        count = store.retry_failed(SystemClock().now_ms())
    out.print(f"{count:,} {'notification is' if count == 1 else 'notifications are'} queued again.")
