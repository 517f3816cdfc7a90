"""The shipped detectors."""
