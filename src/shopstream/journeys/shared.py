"""The live view in an object store: written by the engine's machine, read by any other."""

import json
import logging
from collections.abc import Mapping
from datetime import timedelta

from shopstream.clock import Clock
from shopstream.engine.checkpoint import ObjectStore
from shopstream.errors import RetryableError

__all__ = ["SharedLiveStore"]

_LOGGER = logging.getLogger(__name__)
_KEY = "live.json"
_EVERY_MS = timedelta(seconds=10) // timedelta(milliseconds=1)
"""Every write costs; a person looks at a page no oftener."""


class SharedLiveStore:
    """One object; nothing in it is the only copy of anything.

    Args:
        objects: where it lies.
        clock: processing time.
    """

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._not_before_ms = 0
        self._waiting: bytes | None = None

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace all panels, at most every ten seconds; what comes sooner waits for the next call or `close`.

        A page that is late for a while is no reason to stop the line: what cannot be written now waits, too.
        """
        self._waiting = json.dumps({**panels, "as_of_ms": as_of_ms}, default=str).encode()
        if self._clock.now_ms() >= self._not_before_ms:
            self.close()

    def close(self) -> None:
        """Write what waits."""
        if self._waiting is not None:
            try:
                self._objects.write(_KEY, self._waiting)
                self._waiting = None
            except RetryableError as error:
                _LOGGER.warning("live panels wait: %s", error)
            self._not_before_ms = self._clock.now_ms() + _EVERY_MS

    def read(self) -> dict[str, object]:
        """All panels; empty when nothing was published yet."""
        found = self._objects.read(_KEY)
        panels: dict[str, object] = json.loads(found[0]) if found else {}
        return panels
