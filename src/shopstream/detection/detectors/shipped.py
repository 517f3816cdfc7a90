"""Builds the shipped detectors from settings and baselines."""

from typing import TYPE_CHECKING

from shopstream.detection.baseline import Baselines
from shopstream.detection.detector import Detector
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.burst import BurstDetector
from shopstream.detection.detectors.composition import CompositionDetector
from shopstream.detection.detectors.conversion import ConversionDetector
from shopstream.detection.detectors.coordination import CoordinationDetector
from shopstream.detection.detectors.keys import KeyVolumeDetector
from shopstream.detection.detectors.quality import DuplicateDetector, NullDetector, PriceDetector
from shopstream.detection.detectors.silence import SilenceDetector
from shopstream.detection.detectors.site_state import SiteState
from shopstream.detection.detectors.volume import VolumeDetector
from shopstream.detection.settings import DetectionSettings

if TYPE_CHECKING:
    from shopstream.detection.product_reference import ProductReference
    from shopstream.engine.engine import Engine


def shipped_detectors(settings: DetectionSettings, baselines: Baselines | None = None) -> list[Detector]:
    """All detectors, in the order in which their detections of one bin come.

    The volume detector comes first because it updates the site's state, which others read. Where it is off but others
    are not, it runs without reporting.

    Args:
        settings: which of them are off.
        baselines: what is normal, learned from history. Without them, each detector learns, after a warm-up.
    """
    site = SiteState(baselines)
    shipped: list[Detector] = [
        VolumeDetector(site, silent="volume" in settings.detectors_off),
        SilenceDetector(site),
        BurstDetector(site),
        CompositionDetector(site, baselines),
        ConversionDetector(site, baselines),
        KeyVolumeDetector("category_id", site, baselines),
        KeyVolumeDetector("product_id", site, baselines),
        DuplicateDetector(site),
        NullDetector(site, baselines),
        PriceDetector(),
        CoordinationDetector(),
    ]
    enabled = [detector for detector in shipped if detector.id not in settings.detectors_off]
    return [detector for detector in shipped if detector in enabled or detector.id == "volume"] if enabled else []


def shipped_runner(settings: DetectionSettings, baselines: Baselines | None = None) -> DetectorRunner:
    """A runner of the shipped detectors, with the operators they need."""

    def reference(engine: "Engine") -> "ProductReference":
        from shopstream.detection.product_reference import ProductReference  # noqa: PLC0415  only an engine has DuckDB

        return ProductReference(engine.connection, baselines.products if baselines else None)

    detectors = shipped_detectors(settings, baselines)
    return DetectorRunner(detectors, [reference] if detectors else [])
