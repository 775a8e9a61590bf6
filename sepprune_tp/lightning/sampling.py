"""Reading a trainer's batches for the search without moving what the training will see."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from sepprune_tp.errors import DataError, InputError

__all__ = ["Pair", "SearchBatches", "as_it_was", "as_pair", "some_mixtures"]

Pair = Callable[[Any], Any]


class SearchBatches:
    """The batches of a data loader as pairs (mixture, sources), in passes of their own."""

    def __init__(self, loader: Any, pair: Pair | None, convert: Pair, limit: float) -> None:
        """Say what to read.

        Args:
            loader: The trainer's training loader.
            pair: Makes (mixture (B, T), sources (B, S, T)) of a batch; None: it is that already.
            convert: The trainer's change of types, for its precision.
            limit: Batches of a pass.

        Raises:
            InputError: If the trainer has several loaders.
        """
        if isinstance(loader, (dict, list, tuple)) and pair is None:
            raise InputError(
                f"The training batches come from several loaders (a {type(loader).__name__}), and "
                "the search needs one of (mixture, sources). Give the trainer one, or join them "
                "in a data set."
            )
        self._loader, self._pair, self._convert = _apart(loader), pair, convert
        self._limit = limit

    def __iter__(self) -> Iterator[Any]:
        """One pass."""
        for number, batch in enumerate(self._loader):
            if number >= self._limit:
                return
            yield self._convert(batch if self._pair is None else self._pair(batch))


def as_pair(batch: Any, pair: Pair | None, taker: str) -> tuple[Any, Any]:
    """The mixture and the sources of a training batch.

    Args:
        batch: Of a loader.
        pair: Makes them of it; None: it is that already.
        taker: Whose argument ``pair`` is, for the error.

    Raises:
        DataError: If it is no pair.
    """
    if pair is not None:
        batch = pair(batch)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            f"A training batch is a {type(batch).__name__}"
            f"{f' of {len(batch)}' if isinstance(batch, (tuple, list)) else ''}, and what is "
            "needed is (mixture (B, T), sources (B, S, T)). Say how to get these: "
            f"{taker}(..., pair=lambda batch: (batch[0], batch[1]))"
        )
    return batch[0], batch[1]


def some_mixtures(batches: Iterable[Any], count: int) -> list[Tensor]:
    """The first mixtures of some batches, cut to one length.

    Args:
        batches: Of (mixture (B, T), sources).
        count: How many, or fewer if there are fewer.

    Returns:
        Mixtures (B, T).

    Raises:
        DataError: If there are none, or a batch is no pair.
    """
    found: list[Tensor] = []
    left = count
    for batch in batches:
        mixture, _ = as_pair(batch, None, "PruneCallback")
        found.append(mixture[:left])
        left -= len(found[-1])
        if left <= 0:
            break
    if not found:
        raise DataError("The training loader gave no batch; the search needs at least one.")
    length = min(mixture.shape[-1] for mixture in found)
    return [mixture[..., :length] for mixture in found]


@contextmanager
def as_it_was(loader: Any) -> Iterator[None]:
    """Leave all random states as they were: torch's, NumPy's, Python's and those of a loader."""
    generators = _generators(loader)
    states = [generator.get_state() for generator in generators]
    python, arrays = random.getstate(), numpy.random.get_state()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    """Those that a data loader, or what draws for it, holds."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [loader, getattr(loader, "sampler", None), batch_sampler]
    holders.append(getattr(batch_sampler, "sampler", None))
    found = {id(g): g for g in (getattr(holder, "generator", None) for holder in holders)}
    return [g for g in found.values() if isinstance(g, torch.Generator)]


def _apart(loader: Any) -> Any:
    """The loader; a copy of one whose workers stay, for they serve one pass at a time."""
    if not getattr(loader, "persistent_workers", False):
        return loader
    own = copy.copy(loader)
    own._iterator = None
    return own
