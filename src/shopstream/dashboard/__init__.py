"""The dashboard: one live page over a data home."""
