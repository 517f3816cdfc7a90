"""Which detectors there are, made from settings and baselines."""

from shopstream.detection.bank import DetectorBank
from shopstream.detection.baseline import Baselines
from shopstream.detection.detector import Detector
from shopstream.detection.settings import DetectionSettings

__all__ = ["shipped_bank", "shipped_detectors"]


def shipped_detectors(settings: DetectionSettings, baselines: Baselines | None = None) -> list[Detector]:
    """All detectors, in the order in which their detections of one bin come.

    Args:
        settings: which of them are off.
        baselines: what is normal, learned from history; without them each learns as it goes, after a warm-up.
    """
    del baselines
    shipped: list[Detector] = []
    return [detector for detector in shipped if detector.id not in settings.detectors_off]


def shipped_bank(settings: DetectionSettings, baselines: Baselines | None = None) -> DetectorBank:
    """A bank of all detectors, with the operators they need; give it to an engine by `declarations` and `attach`."""
    return DetectorBank(shipped_detectors(settings, baselines))
