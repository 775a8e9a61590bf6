"""Estimates of a long recording, block by block: faded into each other, speakers in one order.

A block overlaps the one before. Its sources are put in the order in which they differ least from
what is there already (least squares, which is largest correlation), and the fade is in the middle
half of the overlap, away from the edges of both blocks, where models know least.

Letters: S sources, N samples of a block, T time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, require

__all__ = ["Blocks", "Piece", "in_order", "stitched"]

Signals = NDArray[np.float32]
_ONE_PASS = 60.0
_BLOCK = 30.0
_SHARE = 0.25


@dataclass(frozen=True)
class Blocks:
    """Which stretches of a recording are separated at a time.

    Attributes:
        size: Samples of a block, N.
        overlap: Samples that a block shares with the one before, at least.
    """

    size: int
    overlap: int

    @classmethod
    def of(cls, length: int, rate: int, block: float | None, overlap: float | None) -> Blocks:
        """Blocks for a recording.

        Args:
            length: Samples, T.
            rate: In Hz.
            block: Seconds of a block; None: up to a minute in one pass, else blocks of 30 seconds.
            overlap: Seconds of overlap; None: a quarter of a block.

        Raises:
            InputError: If the block is shorter than a tenth of a second, or the overlap is not
                above 0 and at most half of the block.
        """
        if block is not None and not 0.1 <= block < float("inf"):
            raise InputError(f"block={block:g} seconds; give at least 0.1 (and some seconds).")
        seconds = _BLOCK if block is None else block
        shared = _SHARE * seconds if overlap is None else overlap
        if not 0 < shared <= seconds / 2:
            raise InputError(
                f"overlap={shared:g} seconds with blocks of {seconds:g}; give more than 0 and at "
                f"most half of the block, {seconds / 2:g}."
            )
        if length <= (_ONE_PASS if block is None else block) * rate:
            return cls(length, 0)
        return cls(round(seconds * rate), max(1, round(shared * rate)))

    def starts(self, length: int) -> Iterator[int]:
        """First sample of each block; the last block ends with the recording."""
        at = 0
        while at + self.size < length:
            yield at
            at += self.size - self.overlap
        yield max(0, length - self.size)


@dataclass(frozen=True)
class Piece:
    """Finished estimates.

    Attributes:
        start: First sample.
        mixture: The recording (n,).
        sources: Estimates (S, n).
    """

    start: int
    mixture: Signals
    sources: Signals


def stitched(
    read: Callable[[int, int], Signals],
    separate: Callable[[Signals], Signals],
    length: int,
    blocks: Blocks,
) -> Iterator[Piece]:
    """Separate block by block.

    Args:
        read: Samples (n,) of the recording, from where and how many.
        separate: Estimates (S, n) of a stretch (n,).
        length: Samples of the recording, T.
        blocks: What to separate at a time.

    Yields:
        Pieces that follow each other without a gap, as soon as nothing changes them any more.
    """
    kept: Piece | None = None
    for start in blocks.starts(length):
        mixture = read(start, min(blocks.size, length - start))
        sources = separate(mixture)
        if kept is not None:
            until = start - kept.start
            before = kept.sources[:, until:]
            sources, shared = in_order(before, sources), before.shape[1]
            fade = _fade(shared)
            sources[:, :shared] = (1 - fade) * before + fade * sources[:, :shared]
            yield Piece(kept.start, kept.mixture[:until], kept.sources[:, :until])
        kept = Piece(start, mixture, sources)
    if kept is not None:
        yield kept


def in_order(before: Signals, sources: Signals) -> Signals:
    """Put sources in the order of those before.

    Args:
        before: The sources (S, n) where both are known.
        sources: Sources (S, N), N >= n, whose first n samples are the same stretch.

    Returns:
        Sources (S, N), permuted for the least squared difference; as they are where all is silent.
    """
    assign: Any = require("scipy.optimize", "train", "Keeping speakers in order")
    shared = sources[:, : before.shape[1]]
    likeness = before.astype(np.float64) @ shared.astype(np.float64).T
    if not np.any(likeness):
        return sources
    order: NDArray[np.int64] = assign.linear_sum_assignment(likeness, maximize=True)[1]
    return sources[order]


def _fade(count: int) -> Signals:
    """From 0 to 1 in the middle half of an overlap."""
    middle = (np.arange(count, dtype=np.float32) + 0.5) / count
    return np.clip(2 * middle - 0.5, 0, 1).astype(np.float32)
