"""Leases: who may work on what, for as long as he says so again and again.

A lease is a row with an owner and a counter; every change of it adds one to the counter, on condition that nobody
else changed it meanwhile. No time stands in it. Whoever wants a lease that somebody has watches its counter by his own
monotonic clock: unchanged for the lease time, its owner is taken for dead. The owner, by his own, stops when he could
not renew it for as long. Clocks may differ by any amount.

A lease keeps work from being done twice; it cannot keep a process that stood still from waking up and writing. What
is written therefore has a fence of its own: the lake takes rows only where its positions are those they follow.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import md5
from typing import Final, Protocol

from shopstream.stream.ports import Position, Shard

__all__ = ["Lease", "Leases", "SharedShards", "Watch", "assign_shards", "ready"]

_LOGGER = logging.getLogger(__name__)

_RENEWALS: Final = 3
"""So often a lease is renewed within its time."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One row.

    Args:
        name: what is leased: a shard id, or what only one may be.
        owner: unique for each run of a worker; None while it is free.
        counter: of changes.
        position: how far the shard was worked on, as last told; None where nobody told.
        ended: the shard is closed and was worked on to its end.
    """

    name: str
    owner: str | None = None
    counter: int = 0
    position: Position | None = None
    ended: bool = False


class Leases(Protocol):
    """Keeps the leases of one consumer."""

    def all(self) -> list[Lease]:
        """All of them, as they are now."""
        ...

    def add(self, name: str) -> Lease:
        """The lease of that name; made, and free, where there was none."""
        ...

    def change(self, old: Lease, new: Lease) -> bool:
        """Put `new` in the place of `old`, unless somebody changed it meanwhile; returns whether it stands.

        `new.counter` is `old.counter + 1`. Where the answer of an earlier try was lost, its effect counts.
        """
        ...

    def remove(self, lease: Lease) -> bool:
        """Delete it, unless somebody changed it meanwhile; returns whether it is gone."""
        ...


class Watch:
    """Tells by this process's own clock which leases nobody renews any more.

    Args:
        lease_time: unchanged for so long, an owner is taken for dead.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, lease_time: timedelta, monotonic: Callable[[], float]) -> None:
        self._lease_s = lease_time.total_seconds()
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}
        self.changing: set[str] = set()
        """Names of leases whose counter was seen to grow: somebody is at work there."""

    def living(self, leases: Sequence[Lease]) -> dict[str, str | None]:
        """Name → owner, None where it has none or a dead one."""
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
    """Shards that may be worked on: not at their end, while all their parents are. Parents no longer listed count."""
    listed = {shard.shard_id for shard in shards}
    return [
        shard.shard_id
        for shard in shards
        if shard.shard_id not in ended and all(p in ended for p in shard.parent_ids if p in listed)
    ]


def assign_shards(me: str, owners: Mapping[str, str | None]) -> list[str]:
    """What a worker takes so that all workers come to have the same number, give or take one.

    Free ones first, up to the fair share; then from whoever has two more than this one would have.

    Args:
        me: this worker.
        owners: of everything that may be worked on: name → living owner, None where it is free.
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
    """Two workers that come at once reach for different ones."""
    return md5(f"{me} {name}".encode(), usedforsecurity=False).digest()


def _warn(name: str, _position: Position) -> None:
    _LOGGER.warning("retention dropped shard %s before it was read to its end", name)


class SharedShards:
    """This worker's share of a stream's shards.

    Args:
        leases: of the consumer that the workers are together.
        owner: unique for this run of this worker.
        lease_time: a worker that did not renew for so long is taken for dead.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, leases: Leases, owner: str, lease_time: timedelta, *, monotonic: Callable[[], float]) -> None:
        self._leases = leases
        self._owner = owner
        self._lease_s = lease_time.total_seconds()
        self._monotonic = monotonic
        self._watch = Watch(lease_time, monotonic)
        self._held: dict[str, tuple[Lease, float]] = {}
        self._settled = False
        self._lock = threading.RLock()

    @property
    def renew_every(self) -> float:
        """Seconds between two calls of `renew` and of `balance`."""
        return self._lease_s / _RENEWALS

    @property
    def settled(self) -> bool:
        """Whether at the last `balance` each shard that may be worked on was held, here or by a worker seen at work."""
        return self._settled

    def held(self) -> list[str]:
        """Shards that are this worker's now, by its own clock."""
        with self._lock:
            now = self._monotonic()
            return sorted(name for name, (_, until) in self._held.items() if now < until)

    def balance(self, shards: Sequence[Shard], unread: Callable[[str, Position], object] = _warn) -> list[str]:
        """Take what is free or too much elsewhere; returns all that this worker holds afterwards.

        Args:
            shards: as the stream lists them now; leases of others are removed once they are at rest.
            unread: is told of each of those that was not worked on to its end, and how far it was; what it raises
                leaves the lease as it was.
        """
        with self._lock:
            leases = {lease.name: lease for lease in self._leases.all()}
            for shard in shards:
                if shard.shard_id not in leases:
                    leases[shard.shard_id] = self._leases.add(shard.shard_id)
            owners = self._watch.living(list(leases.values()))
            listed = {shard.shard_id for shard in shards}
            for name in [name for name in leases if name not in listed and owners[name] in {None, self._owner}]:
                gone = leases.pop(name)
                if gone.position is not None and not gone.ended:
                    unread(name, gone.position)
                self._leases.remove(gone)
                self._held.pop(name, None)
            ended = {name for name, lease in leases.items() if lease.ended}
            held = set(self.held())
            # What this worker holds is told by its own clock; a row may say that it holds more: from a lost answer.
            may = {
                name: self._owner if name in held else None if owners[name] == self._owner else owners[name]
                for name in ready(shards, ended)
            }
            for name in assign_shards(self._owner, may):
                self._take(leases[name])
            self._settled = all(
                name in self._held or (owner not in {None, self._owner} and name in self._watch.changing)
                for name, owner in may.items()
            )
            return self.held()

    def _take(self, lease: Lease) -> None:
        asked_at = self._monotonic()
        mine = replace(lease, owner=self._owner, counter=lease.counter + 1)
        if self._leases.change(lease, mine):
            self._held[lease.name] = (mine, asked_at + self._lease_s)

    def renew(self) -> None:
        """Say again what is held; what somebody else took is lost."""
        with self._lock:
            for name in self.held():
                self._write(name)

    def told(self, name: str, position: Position, *, ended: bool = False) -> bool:
        """Note how far a shard was worked on; returns whether it is still held. An ended one is given back."""
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
        """Give everything back, so that others need not wait."""
        with self._lock:
            for name in self.held():
                lease, _ = self._held.pop(name)
                self._leases.change(lease, replace(lease, owner=None, counter=lease.counter + 1))
