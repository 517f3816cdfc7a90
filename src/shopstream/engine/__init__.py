"""How events are processed: windows as declarations, event time, keyed state, checkpoints."""
