"""Every error shopstream raises on purpose.

    ShopstreamError
    ├── RetryableError          try the same call again later
    │   └── BackpressureError   the receiver is full or throttles: wait `retry_after`
    └── PermanentError          the same call will fail again; the message says what to change
        ├── ConfigurationError  a setting, flag or file is invalid
        ├── RuleError           a rule file is invalid
        ├── DecodeError         bytes that are not an event
        └── StateError          stored state is missing, damaged, or another program's

A message states what was expected, the actual value, and how to fix it.
"""

from datetime import timedelta

__all__ = [
    "BackpressureError",
    "ConfigurationError",
    "DecodeError",
    "PermanentError",
    "RetryableError",
    "RuleError",
    "ShopstreamError",
    "StateError",
]


class ShopstreamError(Exception):
    """Base of all errors that shopstream raises on purpose."""


class RetryableError(ShopstreamError):
    """The same call may succeed later."""


class BackpressureError(RetryableError):
    """The receiver cannot take more now; nothing of the call was accepted.

    Args:
        message: what is full, and what to do.
        retry_after: how long to wait before the same call.
    """

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(ShopstreamError):
    """The same call will fail again."""


class ConfigurationError(PermanentError):
    """A setting, flag or file is invalid."""


class RuleError(PermanentError):
    """A rule file is invalid."""


class DecodeError(PermanentError):
    """Bytes cannot be decoded as events."""


class StateError(PermanentError):
    """Stored state is missing, damaged, or was written by another program."""
