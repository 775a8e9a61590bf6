"""Batches of a map-style data set, as a function of the step.

Letters: B batch, S sources, T time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepprune_tp.errors import DataError, InputError

__all__ = ["MapStyle", "batches"]

Item = tuple[Tensor, Tensor]


class MapStyle(Protocol):
    """A map-style data set: a sized map from index to (mixture, sources)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def batches(
    dataset: MapStyle,
    batch_size: int,
    *,
    start: int = 0,
    steps: int | None = None,
    shuffle_seed: int | None = None,
) -> Iterator[Item]:
    """Batches as a function of the step, so that a killed run resumes at the same batch.

    Step ``k`` holds the items ``k * batch_size`` to ``(k + 1) * batch_size - 1``, counted on
    through the data set as often as needed; every pass has its own order if shuffled.

    Args:
        dataset: Sized map from index to (mixture ``(T,)``, sources ``(S, T)``), equally long.
        batch_size: B.
        start: First step.
        steps: How many batches to give; None goes on for ever.
        shuffle_seed: Seed of the order of every pass; None keeps the data set's own order.

    Yields:
        The mixtures ``(B, T)`` and sources ``(B, S, T)``.

    Raises:
        InputError: If the batch size is not positive.
        DataError: If the data set is empty.
    """
    if batch_size < 1 or start < 0:
        raise InputError(f"batches needs batch_size >= 1 and start >= 0, {batch_size=}, {start=}.")
    if not len(dataset):
        raise DataError(
            f"The data set ({type(dataset).__name__}) is empty: there is nothing to make batches "
            "of. Check the folder or list that it was built from."
        )
    step = start
    orders = _Orders(dataset, shuffle_seed)
    while steps is None or step < start + steps:
        items = [dataset[orders.item(step * batch_size + i)] for i in range(batch_size)]
        yield torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])
        step += 1


class _Orders:
    """Which item stands at a position of the endless sequence of passes."""

    def __init__(self, dataset: Sized, seed: int | None) -> None:
        self._size, self._seed = len(dataset), seed
        self._pass = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def item(self, position: int) -> int:
        """Index into the data set at a position from 0."""
        number, offset = divmod(position, self._size)
        if self._seed is None:
            return offset
        if number != self._pass:
            self._pass = number
            self._order = np.random.default_rng([self._seed, number]).permutation(self._size)
        return int(self._order[offset])
