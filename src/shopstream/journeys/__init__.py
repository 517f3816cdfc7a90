"""What shoppers do: active sessions, funnel, open carts, top lists, live; and one shopper's timeline (`timeline`)."""

from shopstream.journeys.embedded import EmbeddedLiveStore
from shopstream.journeys.live import LiveJourneys
from shopstream.journeys.ports import LiveStore

__all__ = ["EmbeddedLiveStore", "LiveJourneys", "LiveStore"]
