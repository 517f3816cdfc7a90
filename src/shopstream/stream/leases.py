"""Leases: exclusive, time-limited ownership of a shard, kept by heartbeats.

A lease is a row with an owner and a counter. Every change increments the counter, provided that no other process has
changed the row. The row holds no time: a process that wants a lease watches its counter by its own monotonic clock; if
the counter has not changed for the lease time, the owner counts as dead. The owner stops, by its own clock, when it
could not renew the lease for as long. Clocks may differ by any amount.

A lease prevents duplicate work; it cannot prevent a suspended process from waking up and writing. Writes therefore
have their own fence: the lake accepts rows only if its positions are those that the rows follow.

`SharedShards` shares the shards of a stream among workers; `LeaderLease` elects one active process and keeps any number
on standby.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import md5
from types import TracebackType
from typing import Final, Protocol, Self

from shopstream.clock import Clock
from shopstream.errors import RetryableError, ShopstreamError
from shopstream.stream.ports import Position, Shard

_LOGGER = logging.getLogger(__name__)

_RENEWALS: Final = 3
"""Renewals per lease time."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One row.

    Args:
        name: what is leased: a shard id, or the role of a leader.
        owner: unique for each run of a worker; None while the lease is free.
        counter: number of changes.
        position: last position recorded for the shard; None if there is none.
        ended: the shard is closed and was processed to its end.
    """

    name: str
    owner: str | None = None
    counter: int = 0
    position: Position | None = None
    ended: bool = False


class Leases(Protocol):
    """Stores the leases of one consumer."""

    def all(self) -> list[Lease]:
        """All leases."""
        ...

    def add(self, name: str) -> Lease:
        """The lease of that name; created, and free, if there was none."""
        ...

    def change(self, old: Lease, new: Lease) -> bool:
        """Replace `old` by `new` unless another process has changed it; returns whether `new` is stored.

        `new.counter` is `old.counter + 1`. An earlier attempt whose answer was lost counts.
        """
        ...

    def remove(self, lease: Lease) -> bool:
        """Delete it unless another process has changed it; returns whether it is gone."""
        ...


class HeartbeatMonitor:
    """Detects expired leases by this process's own clock.

    Args:
        lease_time: an owner that has not renewed a lease for this long counts as dead.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, lease_time: timedelta, monotonic: Callable[[], float]) -> None:
        self._lease_s = lease_time.total_seconds()
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}
        self.changing: set[str] = set()
        """Names of leases whose counter was seen to grow: their owners are alive."""

    def live_owners(self, leases: Sequence[Lease]) -> dict[str, str | None]:
        """Name → owner; None if the lease has no owner or a dead one."""
        now = self._monotonic()
        seen = {}
        for lease in leases:
            counter, since = self._seen.get(lease.name, (lease.counter, now))
            if counter != lease.counter:
                self.changing.add(lease.name)
                since = now
            elif now - since >= self._lease_s:
                self.changing.discard(lease.name)
            seen[lease.name] = (lease.counter, since)
        self._seen = seen
        return {lease.name: lease.owner if now - seen[lease.name][1] < self._lease_s else None for lease in leases}


def ready(shards: Sequence[Shard], ended: Collection[str]) -> list[str]:
    """Shards that may be read: not ended themselves, all listed parents ended."""
    listed = {shard.shard_id for shard in shards}
    return [
        shard.shard_id
        for shard in shards
        if shard.shard_id not in ended and all(p in ended for p in shard.parent_ids if p in listed)
    ]


def assign_shards(me: str, owners: Mapping[str, str | None]) -> list[str]:
    """Shards that a worker takes, so that all workers end up with the same number, give or take one.

    Free shards first, up to the fair share; then shards of workers that hold at least two more than this one.

    Args:
        me: this worker.
        owners: shard → live owner, None if it is free; only shards that may be read.
    """
    held: dict[str, list[str]] = {me: []}
    for name in sorted(owners, key=lambda name: _preference(me, name)):
        owner = owners[name]
        if owner is not None:
            held.setdefault(owner, []).append(name)
    free = sorted((name for name, owner in owners.items() if owner is None), key=lambda name: _preference(me, name))
    share = -(-len(owners) // len(held))
    taken = free[: max(0, share - len(held[me]))]
    mine = len(held[me]) + len(taken)
    others = [names for owner, names in held.items() if owner != me]
    while others and len(fullest := max(others, key=len)) >= mine + 2:
        taken.append(fullest.pop(0))
        mine += 1
    return taken


def _preference(me: str, name: str) -> bytes:
    """Workers that start at once try different shards first."""
    return md5(f"{me} {name}".encode(), usedforsecurity=False).digest()


def _warn(name: str, _position: Position) -> None:
    _LOGGER.warning("retention dropped shard %s before it was read to its end", name)


class SharedShards:
    """This worker's share of a stream's shards.

    Args:
        leases: of the consumer that the workers form.
        owner: unique for this run of this worker.
        lease_time: a worker that has not renewed its leases for this long counts as dead.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, leases: Leases, owner: str, lease_time: timedelta, *, monotonic: Callable[[], float]) -> None:
        self._leases = leases
        self._owner = owner
        self._lease_s = lease_time.total_seconds()
        self._monotonic = monotonic
        self._monitor = HeartbeatMonitor(lease_time, monotonic)
        self._held: dict[str, tuple[Lease, float]] = {}
        self._settled = False
        self._lock = threading.RLock()

    @property
    def renew_every(self) -> float:
        """Seconds between two calls of `renew` and of `balance`."""
        return self._lease_s / _RENEWALS

    @property
    def settled(self) -> bool:
        """Whether at the last `balance` this worker or a live one held each shard that may be read."""
        return self._settled

    def held(self) -> list[str]:
        """Shards that this worker holds now, by its own clock."""
        with self._lock:
            now = self._monotonic()
            return sorted(name for name, (_, until) in self._held.items() if now < until)

    def balance(self, shards: Sequence[Shard], unread: Callable[[str, Position], object] = _warn) -> list[str]:
        """Take this worker's fair share of the shards; returns all shards that it holds afterwards.

        Args:
            shards: as the stream lists them now; leases of other shards are removed once no live worker holds them.
            unread: called with each removed shard that was not read to its end, and its last position; if it raises,
                the lease stays.
        """
        with self._lock:
            leases = {lease.name: lease for lease in self._leases.all()}
            for shard in shards:
                if shard.shard_id not in leases:
                    leases[shard.shard_id] = self._leases.add(shard.shard_id)
            owners = self._monitor.live_owners(list(leases.values()))
            listed = {shard.shard_id for shard in shards}
            for name in [name for name in leases if name not in listed and owners[name] in {None, self._owner}]:
                gone = leases.pop(name)
                if gone.position is not None and not gone.ended:
                    unread(name, gone.position)
                self._leases.remove(gone)
                self._held.pop(name, None)
            ended = {name for name, lease in leases.items() if lease.ended}
            held = set(self.held())
            # By its own clock this worker knows what it holds; a row may claim more, after a lost answer.
            may = {
                name: self._owner if name in held else None if owners[name] == self._owner else owners[name]
                for name in ready(shards, ended)
            }
            for name in assign_shards(self._owner, may):
                self._take(leases[name])
            self._settled = all(
                name in self._held or (owner not in {None, self._owner} and name in self._monitor.changing)
                for name, owner in may.items()
            )
            return self.held()

    def _take(self, lease: Lease) -> None:
        asked_at = self._monotonic()
        mine = replace(lease, owner=self._owner, counter=lease.counter + 1)
        if self._leases.change(lease, mine):
            self._held[lease.name] = (mine, asked_at + self._lease_s)

    def renew(self) -> None:
        """Renew all leases; those that another worker took are lost."""
        with self._lock:
            for name in self.held():
                self._write(name)

    def record_progress(self, name: str, position: Position, *, ended: bool = False) -> bool:
        """Store the position of a shard; returns whether it is still held. An ended shard is released."""
        with self._lock:
            return name in self.held() and self._write(name, position, ended=ended)

    def _write(self, name: str, position: Position | None = None, *, ended: bool = False) -> bool:
        lease, _ = self._held[name]
        asked_at = self._monotonic()
        new = replace(
            lease,
            owner=None if ended else self._owner,
            counter=lease.counter + 1,
            position=lease.position if position is None else position,
            ended=ended,
        )
        stands = self._leases.change(lease, new)
        if stands and not ended:
            self._held[name] = (new, asked_at + self._lease_s)
        else:
            del self._held[name]
        return stands

    def release(self) -> None:
        """Release all leases, so that other workers take over at once."""
        with self._lock:
            for name in self.held():
                lease, _ = self._held.pop(name)
                self._leases.change(lease, replace(lease, owner=None, counter=lease.counter + 1))


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
