"""What only one process may be at a time, though several stand by."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from shopstream.clock import Clock
from shopstream.errors import RetryableError, ShopstreamError
from shopstream.stream.leases import Lease, Leases, Watch

__all__ = ["LeaderLease"]

_RENEWALS: Final = 3
_LOOKS: Final = 10


class LeaderLease:
    """The one lease of a name; renewed by a thread while it is held.

    Args:
        leases: where it is kept.
        name: what only one may be.
        owner: unique for this run of this process.
        lease_time: a holder that did not renew for so long is taken for dead.
        clock: lets waiting time pass.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        leases: Leases,
        name: str,
        owner: str,
        lease_time: timedelta,
        *,
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        self._leases = leases
        self._name = name
        self._owner = owner
        self._lease_time = lease_time
        self._clock = clock
        self._monotonic = monotonic
        self._watch = Watch(lease_time, monotonic)
        self._lease: Lease | None = None
        self._until = 0.0
        self._error: ShopstreamError | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(
        self, *, stop: Callable[[], bool] = lambda: False, waiting: Callable[[str], None] = lambda _owner: None
    ) -> bool:
        """Wait as a standby until the lease is free or its holder dead; returns False where `stop` said so first.

        Args:
            stop: asked from time to time.
            waiting: told once for each holder that is waited for.
        """
        told: str | None = None
        while not stop():
            if self.try_acquire():
                self._stopping.clear()
                self._thread = threading.Thread(target=self._keep, name=f"lease {self._name}", daemon=True)
                self._thread.start()
                return True
            owner = self._leases.add(self._name).owner
            if owner is not None and owner != told:
                waiting(owner)
                told = owner
            self._clock.sleep(self._lease_time / _LOOKS)
        return False

    def try_acquire(self) -> bool:
        """Take it if nobody living has it; whoever calls this renews it."""
        asked_at = self._monotonic()
        lease = self._leases.add(self._name)
        if self._watch.living([lease])[self._name] is not None:
            return False
        mine = replace(lease, owner=self._owner, counter=lease.counter + 1)
        if not self._leases.change(lease, mine):
            return False
        self._lease, self._until, self._error = mine, asked_at + self._lease_time.total_seconds(), None
        return True

    def renew(self) -> None:
        """Say again that it is held."""
        lease = self._lease
        if lease is None:
            return
        asked_at = self._monotonic()
        new = replace(lease, counter=lease.counter + 1)
        if self._leases.change(lease, new):
            self._lease, self._until = new, asked_at + self._lease_time.total_seconds()
        else:
            self._lease = None

    def check(self) -> None:
        """Be sure that it is held.

        Raises:
            RetryableError: somebody else took it, or it could not be renewed in time: end, and stand by again.
            ConfigurationError: the table may not be written.
        """
        if self._lease is not None and self._monotonic() < self._until:
            return
        if self._error is not None and not isinstance(self._error, RetryableError):
            raise self._error
        raise RetryableError(
            f"another process has become {self._name!r}, or this one could not say within {self._lease_time} that it "
            "lives; start it again, it will stand by"
        ) from self._error

    def release(self) -> None:
        """Give it back, so that a standby need not wait."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        lease, self._lease = self._lease, None
        if lease is not None and self._monotonic() < self._until:
            self._leases.change(lease, replace(lease, owner=None, counter=lease.counter + 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._stopping.wait(self._lease_time.total_seconds() / _RENEWALS):
            try:
                self.renew()
            except RetryableError as error:
                self._error = error  # tried again while the lease lasts; `check` tells when it does not
            except ShopstreamError as error:
                self._error, self._lease = error, None
            if self._lease is None:
                return
