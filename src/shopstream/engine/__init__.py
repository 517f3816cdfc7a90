"""Event processing: declared windows, event time, keyed state, checkpoints."""
