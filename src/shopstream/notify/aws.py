"""Notifications through an SNS topic: a text for people, a JSON document for programs, attributes to filter by."""

import json
from typing import Any, Final

from shopstream.aws import clients as aws
from shopstream.errors import RetryableError, ShopstreamError
from shopstream.incidents.settings import NotifySettings
from shopstream.notify.message import Message
from shopstream.notify.sender import targets_of

_SUBJECT: Final = 100
"""Characters of a subject, ASCII and on one line, says SNS."""
_MOST_BYTES: Final = 240_000
"""Of all texts; SNS takes 256 KB with the attributes."""
_MOST_TEXT: Final = 20_000
_MOST_NAMED: Final = 30
"""Values of a list attribute; a filter matches any of them."""


class SnsChannel:
    """See `ports.NotificationChannel`. E-mail and SMS get text; queues, functions, HTTP and Firehose a JSON document.

    Attributes to filter by: `severity` and `count`; lists of the incidents' `kind`, `rule` and `nature`; `campaign`,
    whether one of them is one.

    Args:
        topic_arn: of the topic.
        target: a name that is safe to show; None takes that of `notify.targets_of`.
    """

    def __init__(self, topic_arn: str, target: str | None = None) -> None:
        self._topic = topic_arn
        self._target = target or targets_of(NotifySettings(), topic_arn)[-1]
        self._client = aws.client("sns")

    @property
    def target(self) -> str:
        """See `ports.NotificationChannel.target`."""
        return self._target

    def send(self, message: Message) -> None:
        """See `ports.NotificationChannel.send`; what SNS refuses is tried again, too: a right may be granted later."""
        try:
            with aws.explained("to send a notification (sns:Publish)"):
                self._client.publish(
                    TopicArn=self._topic,
                    Subject=_subject(message.title),
                    MessageStructure="json",
                    Message=_texts(message),
                    MessageAttributes=_attributes(message),
                )
        except RetryableError:
            raise
        except ShopstreamError as error:
            raise RetryableError(f"not delivered to {self._target}: {error}") from error


def _subject(title: str) -> str:
    """Printable ASCII on one line, as SNS wants it; what cannot be written so is left out."""
    plain = title.encode("ascii", "ignore").decode()
    words = "".join(one if one.isprintable() else " " for one in plain).split()
    return " ".join(words)[:_SUBJECT] or "shopstream"


def _texts(message: Message) -> str:
    """Text by protocol; as many incidents in the document as fit, the gravest first, and how many there are."""
    text = message.body if len(message.body) <= _MOST_TEXT else f"{message.body[:_MOST_TEXT]}…"
    listed = list(message.incidents)
    while True:
        document = {
            "title": message.title,
            "severity": str(message.severity),
            "reference": message.reference,
            "count": len(message.incidents),
            "incidents": listed,
            "text": text,
        }
        texts = json.dumps(
            {"default": json.dumps(document), "email": text, "email-json": text, "sms": _subject(message.title)}
        )
        if len(texts) <= _MOST_BYTES or not listed:
            return texts
        listed = listed[: len(listed) * _MOST_BYTES // (len(texts) + 1)]


def _attributes(message: Message) -> dict[str, dict[str, Any]]:
    attributes: dict[str, dict[str, Any]] = {
        "severity": {"DataType": "String", "StringValue": str(message.severity)},
        "count": {"DataType": "Number", "StringValue": str(len(message.incidents))},
        "campaign": {
            "DataType": "String",
            "StringValue": str(any(one["campaign"] for one in message.incidents)).lower(),
        },
    }
    for name in ("kind", "rule", "nature"):
        # A campaign's incident names the rules of all its parts.
        found = [one[name] for one in message.incidents]
        if name == "rule":
            found += [rule for one in message.incidents for rule in _list(one["rules"])]
        if values := list(dict.fromkeys(map(str, found)))[:_MOST_NAMED]:
            attributes[name] = {"DataType": "String.Array", "StringValue": json.dumps(values)}
    return attributes


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
