"""What a replay is told, tells on its way, and says at its end."""

from dataclasses import dataclass
from datetime import datetime

from shopstream.errors import ConfigurationError
from shopstream.simulation.partitioning import PartitionKey
from shopstream.simulation.stream_sender import SendStatistics

__all__ = ["ReplayProgress", "ReplaySettings", "ReplaySummary"]


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How to replay.

    Args:
        speed: seconds of event time a second; None: no limit.
        rate: events a second; None: no limit. Not together with `speed`.
        rebase: "now" or an aware moment: event times are moved so that the first event is at it. "today": they are
            moved by whole days, so that the first event is of the last 24 hours. With "now" and "today" an event is
            sent when the clock reaches its time, and what lies before that at once.
        loop: begin again at the end, for ever; each round lies after the one before in event time.
        partition_key: what decides on an event's shard.
        restart: forget an earlier bookmark.

    Raises:
        ConfigurationError: values that do not fit.
    """

    speed: float | None = None
    rate: float | None = None
    rebase: datetime | str | None = None
    loop: bool = False
    partition_key: PartitionKey = PartitionKey.CATEGORY_ID
    restart: bool = False

    def __post_init__(self) -> None:
        if self.speed is not None and self.rate is not None:
            raise ConfigurationError("expected --speed or --rate, got both; choose one")
        for name, value in (("speed", self.speed), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"expected --{name} above 0, got {value}; leave it out for no limit")
        if isinstance(self.rebase, str) and self.rebase not in {"now", "today"}:
            raise ConfigurationError(f"expected a rebase of 'now', 'today' or an aware datetime, got {self.rebase!r}")
        if self.live and (self.rate is not None or self.speed not in {None, 1}):
            raise ConfigurationError(
                f"expected the pace of the clock with --rebase {self.rebase}, got another --speed or --rate, whose "
                "events would leave the present; leave it out"
            )
        if isinstance(self.rebase, datetime) and self.rebase.tzinfo is None:
            raise ConfigurationError(f"expected a rebase with a time zone, got {self.rebase}; add Z or an offset")

    @property
    def live(self) -> bool:
        """Event time follows the clock."""
        return isinstance(self.rebase, str)


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """Where a running replay is.

    Args:
        events: sent in this run.
        rejected: rows sent as they came, in this run.
        done: share of the source, 0 to 1, in this round.
        round: 0 at first.
        event_time_ms: latest event time sent, shifted; None before the first.
        sent: what the stream took, and what it refused, so far.
        waiting: why it waits for the stream, if it does.
    """

    events: int
    rejected: int
    done: float
    round: int
    event_time_ms: int | None
    sent: SendStatistics
    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a replay did.

    Args:
        events: sent and acknowledged in this run.
        rejected: rows that are no events, sent as they came, in this run.
        sent: what the stream took, and what it refused.
        earlier_events: done by earlier runs, before the bookmark this one began at.
        first_event_ms: earliest event time sent in this run, shifted; None without events.
        last_event_ms: latest, likewise.
        shift_ms: what was added to event times in the last round.
        rounds: times the source was begun in this run and those before it.
        seconds: how long this run took.
        complete: the source was read to its end.
    """

    events: int
    rejected: int
    sent: SendStatistics
    earlier_events: int
    first_event_ms: int | None
    last_event_ms: int | None
    shift_ms: int
    rounds: int
    seconds: float
    complete: bool
