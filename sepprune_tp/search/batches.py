"""Batches for the search, from any iterable, checked as they come."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import DataError, SearchError

__all__ = ["checked", "checked_batches", "first_batches"]


@runtime_checkable
class _Seeking(Protocol):
    """Endless batches that can begin at any step."""

    def starting(self, step: int) -> Iterator[Any]: ...


def checked_batches(
    batches: Iterable[Any], steps: int, start: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of steps ``start`` to ``steps - 1``, starting over where the iterable ends.

    Args:
        batches: Yields (mixture (B, T) or (B, 1, T), sources (B, S, T)). What has a method
            ``starting(step)`` is asked for the batches from a step on.
        steps: Number of steps in all.
        start: First step; the batches before it are skipped, so that a resumed search goes on with
            those that it would have seen.
        device: Where to put them.

    Yields:
        Mixture and sources.

    Raises:
        SearchError: If there are no batches, or an iterator ends too early to start over.
        DataError: If a batch has another form or holds NaN or infinity.
    """
    step = 0
    if isinstance(batches, _Seeking):
        iterator, step = batches.starting(start), start
    else:
        iterator = iter(batches)
    can_restart = iterator is not batches
    seen_in_pass = 0
    while step < steps:
        try:
            batch = next(iterator)
        except StopIteration:
            if seen_in_pass == 0:
                raise SearchError(
                    "batches is empty: the search needs at least one (mixture, sources) batch. Is "
                    "the folder or the data loader empty (drop_last with few items)?"
                ) from None
            if not can_restart:
                raise SearchError(
                    f"batches ended after {step} of {steps} steps and cannot be iterated again: "
                    "give a list or a DataLoader, or a generator that yields enough batches"
                ) from None
            iterator, seen_in_pass = iter(batches), 0
            continue
        seen_in_pass += 1
        if step >= start:
            yield checked(batch, step, device)
        step += 1


def first_batches(batches: Iterable[Any], count: int) -> tuple[list[Any], Iterable[Any]]:
    """Look at the first batches of an iterable, which still gives all of them afterwards.

    Args:
        batches: As for :func:`checked_batches`.
        count: How many.

    Returns:
        The first ``count`` (fewer if there are fewer), and the iterable to go on with.
    """
    iterator = iter(batches)
    first = list(itertools.islice(iterator, count))
    return first, batches if iterator is not batches else itertools.chain(first, iterator)


def checked(batch: Any, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One batch, on a device.

    Args:
        batch: (mixture (B, T) or (B, 1, T), sources (B, S, T)).
        step: Its number, for errors.
        device: Where to put it.

    Raises:
        DataError: If it has another form or holds NaN or infinity.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            f"batch {step} is a {type(batch).__name__}; give pairs (mixture (B, T), sources "
            "(B, S, T))"
        )
    mixture, sources = (torch.as_tensor(part).to(device) for part in batch)
    if sources.dim() != 3 or mixture.shape[0] != sources.shape[0]:
        raise DataError(
            f"batch {step} holds a mixture of shape {tuple(mixture.shape)} and sources of shape "
            f"{tuple(sources.shape)}; expected (B, T) and (B, S, T)"
        )
    if mixture.shape[-1] != sources.shape[-1]:
        raise DataError(
            f"batch {step}: the mixture has {mixture.shape[-1]} samples, its sources "
            f"{sources.shape[-1]}; they must be equally long"
        )
    for name, part in (("mixture", mixture), ("sources", sources)):
        if not bool(torch.isfinite(part).all()):
            raise DataError(
                f"the {name} of batch {step} holds NaN or infinity; check the recordings (a file "
                "of silence divided by its level?) before searching"
            )
    return mixture, sources
