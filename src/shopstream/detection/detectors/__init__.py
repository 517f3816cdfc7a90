"""The detectors that are shipped."""

from shopstream.detection.detectors.shipped import shipped_bank, shipped_detectors

__all__ = ["shipped_bank", "shipped_detectors"]
