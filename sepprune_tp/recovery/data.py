"""What recovery reads: training batches by step, and validation batches again and again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from sepprune_tp.data import MapStyle, batches
from sepprune_tp.errors import DataError, InputError
from sepprune_tp.search.sharing import ItemBatches, Part

__all__ = ["Loader", "TrainStream", "ValidationBatches", "check_batch"]

Batch = tuple[Tensor, Tensor]
Loader = Iterable[Any] | MapStyle


class TrainStream:
    """Batch ``k`` of an endless training run, for ``k`` in growing order.

    Attributes:
        part: Which part of every batch to give; all of it, unless several devices share them.
    """

    def __init__(self, source: Loader, batch_size: int, seed: int) -> None:
        """Take a map-style data set of items, or a re-iterable of batches."""
        self._source: Any = source
        self._batch_size, self._seed = batch_size, seed
        self._by_item = holds_items(source, "train")
        self.part = Part()
        self._position = -1
        self._batches: Iterator[Any] = iter(())

    def check_part(self, part: Part) -> None:
        """Refuse a batch size that devices cannot share; given batches show theirs as they come.

        Raises:
            InputError: If they cannot.
        """
        if self._by_item:
            ItemBatches(self._source, self._batch_size).shared(part)

    def batch(self, step: int) -> Batch:
        """The part of the batch of a step; asking for anything but the next one seeks."""
        if step != self._position:
            self._batches, self._position = self._from(step), step
        self._position += 1
        mixture, sources = check_batch(next(self._batches), f"train, step {step}")
        return mixture, sources

    def _from(self, step: int) -> Iterator[Any]:
        """Batches from a step on."""
        if self._by_item:
            items = ItemBatches(self._source, self._batch_size, self._seed, self.part)
            return items.starting(step)
        where = "a training batch"
        return (self.part.cut(check_batch(b, where), where) for b in self._repeated(step))

    def _repeated(self, step: int) -> Iterator[Any]:
        """The re-iterable's batches, over and over, less the first ``step``."""
        skip = step % len(self._source) if isinstance(self._source, Sequence) else step
        while True:
            count = 0
            for batch in self._source:
                count += 1
                if skip:
                    skip -= 1
                else:
                    yield batch
            if not count:
                raise DataError(
                    "The training batches ran out: the iterable gives nothing a second time. Pass "
                    "a list, a DataLoader or a map-style data set rather than a generator."
                )


class ValidationBatches:
    """All validation batches, in their own order, every time that they are iterated.

    Attributes:
        part: Of W devices, device r gets the batches r, r + W, r + 2 W...
    """

    def __init__(self, source: Loader, batch_size: int) -> None:
        """Take a map-style data set of items, or a re-iterable of batches."""
        if isinstance(source, Iterator):  # one-shot: keep what it gives
            source = list(source)
        self._source: Any = source
        self._batch_size = batch_size
        self._by_item = holds_items(source, "val")
        self.part = Part()

    def __iter__(self) -> Iterator[Batch]:
        """Every batch once; the last one may be smaller."""
        rank, count = self.part.rank, self.part.count
        if not self._by_item:
            for number, batch in enumerate(self._source):
                if number % count == rank:
                    yield check_batch(batch, f"val, batch {number}")
            return
        source, width = self._source, self._batch_size
        for start in range(rank * width, len(source), count * width):
            items = [source[index] for index in range(start, min(start + width, len(source)))]
            yield from batches(items, len(items), steps=1)

    def __len__(self) -> int:
        """Number of batches of the device that has most."""
        source = self._source
        total = math.ceil(len(source) / self._batch_size) if self._by_item else len(source)
        return math.ceil(total / self.part.count)


def holds_items(source: Any, name: str) -> bool:
    """Whether a loader is a map from index to single items, rather than gives batches.

    Raises:
        DataError: If it is empty.
        InputError: If it is no loader at all, or its first element is no (mixture, sources).
    """
    sized = hasattr(source, "__len__")
    if sized and not len(source):
        raise DataError(
            f"The {name} loader ({type(source).__name__}) is empty: recovery needs at least one "
            "batch. Check the folder or data set behind it, and drop_last with few items."
        )
    if sized and hasattr(source, "__getitem__"):
        mixture, _ = _pair(source[0], f"{name}, item 0")
        return mixture.ndim == 1
    if not hasattr(source, "__iter__"):
        raise InputError(
            f"{name} must be a map-style data set or an iterable of batches, got "
            f"{type(source).__name__}."
        )
    return False


def check_batch(batch: Any, where: str) -> Batch:
    """A batch (mixture, sources) whose shapes go together.

    Raises:
        InputError: With both shapes, if they do not.
    """
    mixture, sources = _pair(batch, where)
    matched = mixture.shape[0] == sources.shape[0] and mixture.shape[-1] == sources.shape[-1]
    if mixture.ndim in (2, 3) and sources.ndim == 3 and matched:
        return mixture, sources
    raise InputError(
        f"A batch must be a mixture (B, T) and sources (B, S, T) of the same B and T, got "
        f"{tuple(mixture.shape)} and {tuple(sources.shape)} ({where})."
    )


def _pair(batch: Any, where: str) -> Batch:
    """Two tensors."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        mixture, sources = batch
        if isinstance(mixture, Tensor) and isinstance(sources, Tensor):
            return mixture, sources
    raise InputError(
        f"A batch must be a pair of tensors (mixture, sources), got {type(batch).__name__} "
        f"({where}). Wrap the loader so that it gives just these two."
    )
