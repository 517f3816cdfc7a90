"""The command line."""

from shopstream.cli.program import app, main

__all__ = ["app", "main"]
