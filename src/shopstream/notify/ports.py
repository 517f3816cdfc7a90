"""What notifications need from the outside: ways to reach people."""

from typing import Protocol

from shopstream.notify.message import Message


class NotificationChannel(Protocol):
    """One address that messages go to."""

    @property
    def target(self) -> str:
        """A name that is safe to show, and the same after a restart."""
        ...

    def send(self, message: Message) -> None:
        """Deliver one message, or fail.

        Raises:
            RetryableError: not delivered, or not known to be.
        """
        ...
