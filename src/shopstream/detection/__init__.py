"""Detection of attacks and faults: rules, which are data, and detectors, which are code."""
