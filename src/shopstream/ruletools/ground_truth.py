"""The truth file beside synthetic events, as far as a backtest needs it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from shopstream.clock import to_ms
from shopstream.errors import ConfigurationError

__all__ = ["KnownEpisode", "read_truth"]


@dataclass(frozen=True, slots=True)
class KnownEpisode:
    """What was laid over the traffic.

    Args:
        kind: its name.
        hostile: an attack; else something that must not be called one.
        from_ms, until_ms: event time, [from, until).
        actors: user ids that act in it and nowhere else.
        key: part of the shop that is hit, column → value as text; empty for the site.
    """

    kind: str
    hostile: bool
    from_ms: int
    until_ms: int
    actors: frozenset[int]
    key: Mapping[str, str]

    def explains(self, keys: Mapping[str, str], first_ms: int, last_ms: int) -> bool:
        """Whether an incident of these keys and times can come from it."""
        if last_ms < self.from_ms or first_ms >= self.until_ms:
            return False
        if "user_id" in keys:
            return int(keys["user_id"]) in self.actors
        return all(keys.get(column, value) == value for column, value in self.key.items())


def read_truth(path: Path) -> list[KnownEpisode]:
    """The episodes of `FILE.truth.json`.

    Raises:
        ConfigurationError: the file is missing, or no truth file.
    """
    try:
        episodes = json.loads(path.read_bytes())["episodes"]
        return [
            KnownEpisode(
                kind=str(episode["kind"]),
                hostile=bool(episode["hostile"]),
                from_ms=to_ms(datetime.fromisoformat(episode["from"])),
                until_ms=to_ms(datetime.fromisoformat(episode["until"])),
                actors=frozenset(episode["actors"]),
                key={str(column): str(value) for column, value in episode.get("key", {}).items()},
            )
            for episode in episodes
        ]
    except OSError as error:
        raise ConfigurationError(
            f"truth file {path} cannot be read ({error.strerror}); check path and rights"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"expected {path} to be a truth file as `shopstream synthesise` writes it beside the events, got something "
            f"else ({type(error).__name__}: {error})"
        ) from error
