"""Stores of the live panels: the engine publishes them, dashboard and command line read them.

Nothing in a store is the only copy of anything: the engine publishes all panels again after a restart.
"""

import json
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from shopstream.clock import Clock
from shopstream.engine.checkpoint import ObjectStore
from shopstream.errors import RetryableError

_LOGGER = logging.getLogger(__name__)
_KEY = "live.json"
_INTERVAL_MS = timedelta(seconds=10) // timedelta(milliseconds=1)
"""Each write to an object store costs money; people do not look more often."""


class LiveStore(Protocol):
    """Holds the newest state of each panel."""

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace all panels (name → JSON-ready value) at once; `as_of_ms` is event time."""
        ...

    def read(self) -> dict[str, object]:
        """Name → value, and `as_of_ms`; empty before the first publication."""
        ...

    def close(self) -> None:
        """Write pending panels, and close the store."""
        ...


class LiveFile:
    """Live panels in a JSON file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace all panels at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        draft.write_bytes(_encode(panels, as_of_ms))
        draft.replace(self._path)

    def read(self) -> dict[str, object]:
        """All panels; empty before the first publication."""
        return _decode(self._path.read_bytes()) if self._path.exists() else {}

    def close(self) -> None:
        """Do nothing: no panels are pending."""


class LiveObject:
    """Live panels in an object store, for readers on other machines.

    Args:
        objects: the store.
        clock: processing time.
    """

    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._not_before_ms = 0
        self._pending: bytes | None = None

    def publish(self, panels: Mapping[str, object], as_of_ms: int) -> None:
        """Replace all panels, at most every ten seconds; newer ones wait for the next call or for `close`.

        A stale page must not block the pipeline: panels that cannot be written now wait, too.
        """
        self._pending = _encode(panels, as_of_ms)
        if self._clock.now_ms() >= self._not_before_ms:
            self.close()

    def close(self) -> None:
        """Write pending panels."""
        if self._pending is not None:
            try:
                self._objects.write(_KEY, self._pending)
                self._pending = None
            except RetryableError as error:
                _LOGGER.warning("live panels cannot be written now: %s", error)
            self._not_before_ms = self._clock.now_ms() + _INTERVAL_MS

    def read(self) -> dict[str, object]:
        """All panels; empty before the first publication."""
        found = self._objects.read(_KEY)
        return _decode(found[0]) if found else {}


def _encode(panels: Mapping[str, object], as_of_ms: int) -> bytes:
    return json.dumps({**panels, "as_of_ms": as_of_ms}, default=str).encode()


def _decode(content: bytes) -> dict[str, object]:
    panels: dict[str, object] = json.loads(content)
    return panels
