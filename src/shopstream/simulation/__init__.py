"""Who sends events: synthetic shoppers and attacks with ground truth."""

from shopstream.simulation.overlay import Episode, Overlay, Scenario, World
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
    "Scenario",
    "Scraper",
    "Synthesis",
    "SynthesisSettings",
    "SynthesisSummary",
    "World",
    "truth_path",
]
