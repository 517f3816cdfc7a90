"""Who sends events: replays of files, synthetic shoppers and attacks with ground truth."""

from shopstream.simulation.overlay import Episode, Overlay, Scenario, World
from shopstream.simulation.partitioning import PartitionKey
from shopstream.simulation.replay import Replay, ReplayTarget
from shopstream.simulation.replay_settings import ReplayProgress, ReplaySettings, ReplaySummary
from shopstream.simulation.scenarios import FlashSale, Flood, Outage, Scraper
from shopstream.simulation.synthesis import (
    OutOfOrder,
    Synthesis,
    SynthesisSettings,
    SynthesisSummary,
    truth_path,
)

__all__ = [
    "Episode",
    "FlashSale",
    "Flood",
    "OutOfOrder",
    "Outage",
    "Overlay",
    "PartitionKey",
    "Replay",
    "ReplayProgress",
    "ReplaySettings",
    "ReplaySummary",
    "ReplayTarget",
    "Scenario",
    "Scraper",
    "Synthesis",
    "SynthesisSettings",
    "SynthesisSummary",
    "World",
    "truth_path",
]
