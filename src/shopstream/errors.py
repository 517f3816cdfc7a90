"""Every error shopstream raises on purpose.

    ShopstreamError
    ├── RetryableError          try the same call again later
    │   └── BackpressureError   the other side is full or throttles: wait `retry_after`
    └── PermanentError          the same call will fail again; say what to change
        ├── ConfigurationError  a setting, flag or file is wrong
        ├── RuleError           a rule file is wrong
        ├── DecodeError         bytes that are no event
        └── StateError          stored state is missing, foreign or damaged

A message says what was expected, what came, and what to do.
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
        message: what is full and what to do about it.
        retry_after: how long to wait before the same call.
    """

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(ShopstreamError):
    """The same call will fail again."""


class ConfigurationError(PermanentError):
    """A setting, a flag or a file does not fit."""


class RuleError(PermanentError):
    """A rule file does not fit the rule language."""


class DecodeError(PermanentError):
    """Bytes that cannot be read as events at all."""


class StateError(PermanentError):
    """Stored state is missing, was written by something else, or is damaged."""
