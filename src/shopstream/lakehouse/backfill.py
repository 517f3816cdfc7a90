"""Bulk load by many machines: the blocks of a file are decoded and written side by side, and committed here in order.

What runs on the machines is what `ingest` runs in its threads, on the same blocks, so the rows, the dead letters and
their ids are the same, and so is the account of how far a file has come: what one began, the other may finish.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from shopstream.events.sources import Source, open_blocks, plan_blocks
from shopstream.lakehouse.ingest import BlockWriter, Part, PartSource

__all__ = ["Piece", "Spread", "in_waves"]

Piece = tuple[int, int | None]
"""Where a machine begins and ends; see `events.sources.plan_blocks`."""

Spread = Callable[[Callable[[Piece], list[Part]], Sequence[Piece]], Sequence[list[Part]]]
"""Applies a function to each piece, wherever; gives the results in order. The function can be pickled."""


def in_waves(spread: Spread, at_once: int) -> PartSource:
    """For `ingest`: so many pieces at once, spread over machines.

    Files of pieces that were not committed are deleted here; those of a machine that was lost are orphans of the lake
    (`shopstream lake orphans`).

    Args:
        spread: applies a function on the machines.
        at_once: pieces of one wave; some for each core, since the slowest decides when the next wave begins.
    """

    def parts(writer: BlockWriter, source: Source, start: int) -> Iterator[Part]:
        pieces = plan_blocks(source, start)
        while wave := list(islice(pieces, at_once)):
            waiting = [part for found in spread(partial(_load, writer, source), wave) for part in found]
            try:
                while waiting:
                    yield waiting.pop(0)
            finally:
                writer.files.storage.remove(file for part in waiting for file in part.files)

    return parts


def _load(writer: BlockWriter, source: Source, piece: Piece) -> list[Part]:
    start, end = piece
    parts = []
    with open_blocks(source, start) as blocks:
        for block in blocks:
            if end is not None and block.start >= end:
                break
            parts.append(writer.write(block))
            if end is not None and block.end >= end:
                break
    return parts
