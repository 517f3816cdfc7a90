"""The command line."""

from shopstream.cli.main import app, main

__all__ = ["app", "main"]
