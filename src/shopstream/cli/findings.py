"""What a check of `shopstream doctor` says when something is wrong."""

__all__ = ["TroubleError"]


class TroubleError(Exception):
    """What is wrong, and what to do about it: a finding, no failure of the program."""
