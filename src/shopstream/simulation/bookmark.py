"""Bookmarks of replays, kept in the data home, so that a stopped replay continues.

A bookmark advances only after the stream has acknowledged what lies before it. So a killed replay sends again, at most,
what it sent since the last bookmark; the same rows make the same events with the same ids.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from shopstream.errors import ConfigurationError, StateError

__all__ = ["Bookmark", "BookmarkFile"]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A position in a replay.

    Args:
        digest: digest of the source, from `events.sources.identify`.
        offset: start of the current block: bytes of text, rows of Parquet.
        places: rows of that block that are done.
        sent: events that are done, over all rounds.
        rejected: rows that are not events and were sent.
        round: number of the round, from 0.
        shift_us: shift of event times in this round; None before the first event.
        first_us: earliest event time of the source in this round so far, unshifted.
        last_us: latest, likewise.
        complete: whether everything is done.
    """

    digest: str
    offset: int = 0
    places: int = 0
    sent: int = 0
    rejected: int = 0
    round: int = 0
    shift_us: int | None = None
    first_us: int | None = None
    last_us: int | None = None
    complete: bool = False


class BookmarkFile:
    """The bookmark of one replay on disk; only one process may run the replay.

    Args:
        folder: folder of bookmarks.
        identity: source, and the options that decide what is sent.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._identity = dict(identity)
        name = sha256(json.dumps(self._identity, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self.path = folder / f"{name}.json"

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Lock the replay.

        Raises:
            ConfigurationError: another process runs it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigurationError(
                f"expected to be the only replay of {self._identity.get('source')} with these options, another process "
                "runs it; stop that one, or use another --home"
            ) from error
        try:
            yield self
        finally:
            lock.release()

    def load(self) -> Bookmark | None:
        """The bookmark, or None.

        Raises:
            StateError: the file is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
            return Bookmark(**content["bookmark"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"expected a replay's bookmark in {self.path}, got something else ({error}); use --restart"
            ) from error

    def save(self, bookmark: Bookmark) -> None:
        """Replace the bookmark atomically and durably."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({"replay": self._identity, "bookmark": asdict(bookmark)}, file, default=str)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
