"""Messages through Apprise: webhooks, Slack, e-mail and a hundred more, by address.

Addresses hold tokens and passwords. They stay in this module: nothing of an address is logged, stored or shown, and
what Apprise says about a failure is boiled down to words that hold none of it.
"""

import logging
import re
from collections.abc import Sequence
from datetime import timedelta

import apprise
from pydantic import SecretStr

from shopstream.detection.detection import Severity
from shopstream.errors import ConfigurationError, RetryableError
from shopstream.notify.message import Message

_TIMEOUT = timedelta(seconds=20)
_HTTP_STATUS = re.compile(r"\berror=(\d{3})\b")

_TYPES = {
    Severity.INFORMATIONAL: apprise.NotifyType.INFO,
    Severity.LOW: apprise.NotifyType.INFO,
    Severity.MEDIUM: apprise.NotifyType.WARNING,
    Severity.HIGH: apprise.NotifyType.FAILURE,
    Severity.CRITICAL: apprise.NotifyType.FAILURE,
}

# Below warnings, Apprise and the HTTP client under it log whole addresses; Apprise's warnings name hosts. What they say
# comes back with each result instead.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
_LOGGER = logging.getLogger("apprise")
_LOGGER.setLevel(logging.WARNING)
_LOGGER.propagate = False


class AppriseChannel:
    """See `ports.NotificationChannel`.

    Args:
        target: a name that is safe to show.
        address: the Apprise URL.

    Raises:
        ConfigurationError: Apprise does not know such an address.
    """

    def __init__(self, target: str, address: SecretStr) -> None:
        asset = apprise.AppriseAsset(
            app_id="shopstream", app_desc="shopstream incidents", app_url="", image_url_mask="", image_url_logo=""
        )
        self._target = target
        self._apprise = apprise.Apprise(asset=asset)
        if not self._apprise.add(address.get_secret_value()):
            raise ConfigurationError(
                f"the address of notification target {target} is none that Apprise knows; correct it in "
                "notify.urls (the address is not shown here because it is secret)"
            )

    @property
    def target(self) -> str:
        """See `ports.NotificationChannel.target`."""
        return self._target

    def send(self, message: Message) -> None:
        """See `ports.NotificationChannel.send`."""
        try:
            result = self._apprise.notify(
                body=message.body,
                title=message.title,
                notify_type=_TYPES[message.severity],
                body_format=apprise.NotifyFormat.TEXT,
                timeout=_TIMEOUT.total_seconds(),
            )
        except Exception as error:  # noqa: BLE001  a plug-in may raise anything, with the address in its message
            raise RetryableError(
                f"not delivered to {self._target}: {type(error).__name__}; tried again later"
            ) from None
        if not result:
            raise RetryableError(f"not delivered to {self._target}: {_reason(result)}; tried again later")


def open_channels(addresses: Sequence[SecretStr], targets: Sequence[str]) -> list[AppriseChannel]:
    """The channels of the settings' addresses.

    Raises:
        ConfigurationError: Apprise does not know one of them.
    """
    return [AppriseChannel(target, address) for target, address in zip(targets, addresses, strict=True)]


def _reason(result: apprise.AppriseResult) -> str:
    if result.status == apprise.AppriseResultStatus.TIMEOUT:
        return f"no answer within {_TIMEOUT.seconds} s"
    for service in result:
        for attempt in service:
            for entry in attempt:
                if status := _HTTP_STATUS.search(entry.message):
                    return f"the service answered HTTP {status[1]}"
                if "onnection error" in entry.message:
                    return "no connection, or no answer in time"
    return "the service refused it"
