"""What recovery reads: training batches by step, and validation batches again and again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from sepprune_tp.data import MapStyle, batches
from sepprune_tp.errors import DataError, InputError

__all__ = ["Loader", "TrainStream", "ValidationBatches", "check_batch"]

Batch = tuple[Tensor, Tensor]
Loader = Iterable[Any] | MapStyle


class TrainStream:
    """Batch ``k`` of an endless training run, for ``k`` in growing order."""

    def __init__(self, source: Loader, batch_size: int, seed: int) -> None:
        """Take a map-style data set of items, or a re-iterable of batches."""
        self._source: Any = source
        self._batch_size, self._seed = batch_size, seed
        self._by_item = holds_items(source, "train")
        self._position = -1
        self._batches: Iterator[Any] = iter(())

    def batch(self, step: int) -> Batch:
        """The batch of a step; asking for anything but the next one seeks."""
        if step != self._position:
            self._batches, self._position = self._from(step), step
        self._position += 1
        mixture, sources = check_batch(next(self._batches), f"train, step {step}")
        return mixture, sources

    def _from(self, step: int) -> Iterator[Any]:
        """Batches from a step on."""
        if self._by_item:
            return batches(self._source, self._batch_size, start=step, shuffle_seed=self._seed)
        return self._repeated(step)

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
    """All validation batches, in their own order, every time that they are iterated."""

    def __init__(self, source: Loader, batch_size: int) -> None:
        """Take a map-style data set of items, or a re-iterable of batches."""
        if isinstance(source, Iterator):  # one-shot: keep what it gives
            source = list(source)
        self._source: Any = source
        self._batch_size = batch_size
        self._by_item = holds_items(source, "val")

    def __iter__(self) -> Iterator[Batch]:
        """Every batch once; the last one may be smaller."""
        if not self._by_item:
            for number, batch in enumerate(self._source):
                yield check_batch(batch, f"val, batch {number}")
            return
        source = self._source
        size = len(source)
        full, rest = divmod(size, self._batch_size)
        yield from batches(source, self._batch_size, steps=full)
        if rest:
            last = [source[index] for index in range(size - rest, size)]
            yield from batches(last, rest, steps=1)

    def __len__(self) -> int:
        """Number of batches."""
        source = self._source
        return math.ceil(len(source) / self._batch_size) if self._by_item else len(source)


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
