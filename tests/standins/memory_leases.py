"""Leases in memory, for tests of what is built on them; several workers of a test share one."""

import threading
from dataclasses import replace

from shopstream.stream.leases import Lease


class MemoryLeases:
    """Keeps to `stream.leases.Leases`; `changes` counts writes that stood."""

    def __init__(self):
        self.rows = {}
        self.changes = 0
        self._lock = threading.Lock()

    def all(self):
        with self._lock:
            return list(self.rows.values())

    def add(self, name):
        with self._lock:
            return self.rows.setdefault(name, Lease(name))

    def change(self, old, new):
        assert new == replace(new, name=old.name, counter=old.counter + 1)
        with self._lock:
            held = self.rows.get(old.name)
            if held == new:
                return True
            if held is None or held.counter != old.counter:
                return False
            self.rows[old.name] = new
            self.changes += 1
            return True

    def remove(self, lease):
        with self._lock:
            held = self.rows.get(lease.name)
            if held is not None and held.counter != lease.counter:
                return False
            self.rows.pop(lease.name, None)
            return True


class Seconds:
    """A monotonic clock that moves when told to; each process has its own, begun anywhere."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now
