"""Which detectors there are, made from settings and baselines."""

from typing import TYPE_CHECKING

from shopstream.detection.baseline import Baselines
from shopstream.detection.detector import Detector
from shopstream.detection.detector_runner import DetectorBank
from shopstream.detection.detectors.burst import BurstDetector
from shopstream.detection.detectors.composition import CompositionDetector
from shopstream.detection.detectors.conversion import ConversionDetector
from shopstream.detection.detectors.coordination import CoordinationDetector
from shopstream.detection.detectors.keys import KeyVolumeDetector
from shopstream.detection.detectors.quality import DuplicateDetector, NullDetector, PriceDetector
from shopstream.detection.detectors.silence import SilenceDetector
from shopstream.detection.detectors.site_state import Traffic
from shopstream.detection.detectors.volume import VolumeDetector
from shopstream.detection.settings import DetectionSettings

if TYPE_CHECKING:
    from shopstream.detection.product_reference import ProductReference
    from shopstream.engine.engine import Engine

__all__ = ["shipped_bank", "shipped_detectors"]


def shipped_detectors(settings: DetectionSettings, baselines: Baselines | None = None) -> list[Detector]:
    """All detectors, in the order in which their detections of one bin come.

    The volume detector comes first: it keeps the site's state, which others read. It runs even when it is off, and is
    then not heard, unless all are off.

    Args:
        settings: which of them are off.
        baselines: what is normal, learned from history; without them each learns as it goes, after a warm-up.
    """
    traffic = Traffic(baselines)
    shipped: list[Detector] = [
        VolumeDetector(traffic, silent="volume" in settings.detectors_off),
        SilenceDetector(traffic),
        BurstDetector(traffic),
        CompositionDetector(traffic, baselines),
        ConversionDetector(traffic, baselines),
        KeyVolumeDetector("category_id", traffic, baselines),
        KeyVolumeDetector("product_id", traffic, baselines),
        DuplicateDetector(traffic),
        NullDetector(traffic, baselines),
        PriceDetector(),
        CoordinationDetector(),
    ]
    heard = [detector for detector in shipped if detector.id not in settings.detectors_off]
    return [detector for detector in shipped if detector in heard or detector.id == "volume"] if heard else []


def shipped_bank(settings: DetectionSettings, baselines: Baselines | None = None) -> DetectorBank:
    """A bank of all detectors, with the operators they need; give it to an engine by `declarations` and `attach`."""

    def reference(engine: "Engine") -> "ProductReference":
        from shopstream.detection.product_reference import ProductReference  # noqa: PLC0415  where there is no engine, no DuckDB

        return ProductReference(engine.connection, baselines.products if baselines else None)

    detectors = shipped_detectors(settings, baselines)
    return DetectorBank(detectors, [reference] if detectors else [])
