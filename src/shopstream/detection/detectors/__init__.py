"""The detectors that are shipped."""
