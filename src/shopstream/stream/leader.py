"""Leader election: one active process, any number on standby."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from shopstream.clock import Clock
from shopstream.errors import RetryableError, ShopstreamError
from shopstream.stream.leases import HeartbeatMonitor, Lease, Leases

__all__ = ["LeaderLease"]

_RENEWALS: Final = 3
"""Renewals per lease time."""

_POLLS: Final = 10
"""Attempts of a standby per lease time."""


class LeaderLease:
    """The lease that makes its owner the leader; a thread renews it while it is held.

    Args:
        leases: stores the lease.
        name: of the role, such as `engine`.
        owner: unique for this run of this process.
        lease_time: a leader that has not renewed its lease for this long counts as dead.
        clock: waits.
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
        self._monitor = HeartbeatMonitor(lease_time, monotonic)
        self._lease: Lease | None = None
        self._until = 0.0
        self._error: ShopstreamError | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(
        self, *, stop: Callable[[], bool] = lambda: False, waiting: Callable[[str], None] = lambda _owner: None
    ) -> bool:
        """Wait on standby until the lease is free or expired; returns False if `stop` returned True first.

        Args:
            stop: called repeatedly while waiting.
            waiting: called once with each leader that is waited for.
        """
        reported: str | None = None
        while not stop():
            if self.try_acquire():
                self._stopping.clear()
                self._thread = threading.Thread(target=self._keep, name=f"lease {self._name}", daemon=True)
                self._thread.start()
                return True
            owner = self._leases.add(self._name).owner
            if owner is not None and owner != reported:
                waiting(owner)
                reported = owner
            self._clock.sleep(self._lease_time / _POLLS)
        return False

    def try_acquire(self) -> bool:
        """Acquire the lease if no live process holds it; the caller renews it."""
        asked_at = self._monotonic()
        lease = self._leases.add(self._name)
        if self._monitor.live_owners([lease])[self._name] is not None:
            return False
        mine = replace(lease, owner=self._owner, counter=lease.counter + 1)
        if not self._leases.change(lease, mine):
            return False
        self._lease, self._until, self._error = mine, asked_at + self._lease_time.total_seconds(), None
        return True

    def renew(self) -> None:
        """Extend the lease."""
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
        """Make sure that this process is still the leader.

        Raises:
            RetryableError: another process took the lease, or it could not be renewed in time; exit and stand by again.
            ConfigurationError: write permission for the table is missing.
        """
        if self._lease is not None and self._monotonic() < self._until:
            return
        if self._error is not None and not isinstance(self._error, RetryableError):
            raise self._error
        raise RetryableError(
            f"another process has become {self._name!r}, or this one could not renew its lease within "
            f"{self._lease_time}; start it again, it will stand by"
        ) from self._error

    def release(self) -> None:
        """Release the lease, so that a standby takes over at once."""
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
                self._error = error  # retried while the lease lasts; `check` raises when it has expired
            except ShopstreamError as error:
                self._error, self._lease = error, None
            if self._lease is None:
                return
