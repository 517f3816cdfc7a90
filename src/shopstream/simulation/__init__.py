"""Who sends events: replays of files, synthetic shoppers and attacks with ground truth."""

from shopstream.simulation.bots import Crawler, Crowd, Rotation, Scraper
from shopstream.simulation.faults import DuplicateStorm, Outage, PriceError, PurchaseCollapse
from shopstream.simulation.flood import Flood
from shopstream.simulation.fraud import Carding, Hoarding, Scalping
from shopstream.simulation.key import Key
from shopstream.simulation.overlay import Episode, Overlay, Scenario, World
from shopstream.simulation.partitioning import PartitionKey
from shopstream.simulation.replay import Replay, ReplayTarget
from shopstream.simulation.replay_settings import ReplayProgress, ReplaySettings, ReplaySummary
from shopstream.simulation.scenario_file import ScenarioFile, ScenarioProblem, Target
from shopstream.simulation.scenario_loader import load_scenarios, read_scenario
from shopstream.simulation.surges import FlashSale
from shopstream.simulation.synthesis import (
    OutOfOrder,
    Synthesis,
    SynthesisSettings,
    SynthesisSummary,
    truth_path,
)

__all__ = [
    "Carding",
    "Crawler",
    "Crowd",
    "DuplicateStorm",
    "Episode",
    "FlashSale",
    "Flood",
    "Hoarding",
    "Key",
    "OutOfOrder",
    "Outage",
    "Overlay",
    "PartitionKey",
    "PriceError",
    "PurchaseCollapse",
    "Replay",
    "ReplayProgress",
    "ReplaySettings",
    "ReplaySummary",
    "ReplayTarget",
    "Rotation",
    "Scalping",
    "Scenario",
    "ScenarioFile",
    "ScenarioProblem",
    "Scraper",
    "Synthesis",
    "SynthesisSettings",
    "SynthesisSummary",
    "Target",
    "World",
    "load_scenarios",
    "read_scenario",
    "truth_path",
]
