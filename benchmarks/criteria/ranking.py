"""From scores of channels to masks that meet a budget, in the two ways that criteria use.

Letters: N gates of all groups, in the order of ``GateSet.groups``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.criteria.base import UnreachableError
from sepprune_tp import Budget, GateSet
from sepprune_tp.errors import BudgetError
from sepprune_tp.search import select

__all__ = ["at_one_rate", "reaching", "split", "together"]


@contextmanager
def reaching(budget: float) -> Iterator[None]:
    """Say of a budget that the package cannot meet that the criterion cannot meet it.

    Args:
        budget: Share of the MACs.

    Raises:
        UnreachableError: In place of the package's ``BudgetError``.
    """
    try:
        yield
    except BudgetError as error:
        raise UnreachableError(f"{budget:.0%} of the MACs: {error}") from error


def together(
    gates: GateSet, scores: Tensor, budget: float, stays: Tensor | None = None
) -> dict[str, Tensor]:
    """Rank the channels of all groups together; the best that fit the budget stay.

    Args:
        gates: Gates of the dense model.
        scores: Shape (N,), higher stays.
        budget: Share of the dense model's MACs.
        stays: Channels that stay in any case, shape (N,), bool.

    Raises:
        UnreachableError: If one channel a group, and what stays, is too much.
    """
    with reaching(budget):
        keep = select(gates.groups, scores, Budget(macs=budget).limits(gates), floor=stays)
    return split(gates, keep)


def at_one_rate(
    gates: GateSet, scores: Tensor, budget: float, stays: Tensor | None = None
) -> tuple[dict[str, Tensor], float]:
    """Remove the lowest channels of each group, the same share of every group.

    The share is the smallest that meets the budget; a group of n channels loses the largest whole
    number of them that is not above it, and keeps one at least.

    Args:
        gates: Gates of the dense model.
        scores: Shape (N,), higher stays; compared within groups only.
        budget: Share of the dense model's MACs.
        stays: Channels that stay in any case, shape (N,), bool.

    Returns:
        Masks, and the share of channels that was removed.

    Raises:
        UnreachableError: If one channel a group, and what stays, is too much.
    """
    goes_at = torch.empty(len(gates), dtype=torch.float64)  # rate at which each channel goes
    scores = scores.detach().double().cpu()
    for group in gates.groups:
        order = torch.argsort(scores[group.gates], descending=True, stable=True)
        places = torch.arange(group.size, 0, -1, dtype=torch.float64) / group.size
        places[0] = torch.inf
        goes_at[group.start + order] = places
    if stays is not None:
        goes_at[stays] = torch.inf
    rates = [0.0, *sorted(set(goes_at[goes_at.isfinite()].tolist()))]
    low, high = 0, len(rates) - 1
    bound = budget * gates.cost_model.dense.macs
    if gates.cost_model.exact(goes_at > rates[high]).macs > bound:
        raise UnreachableError(f"the fewest channels are more than {budget:.0%} of the MACs")
    while low < high:  # MACs fall with the rate
        middle = (low + high) // 2
        if gates.cost_model.exact(goes_at > rates[middle]).macs <= bound:
            high = middle
        else:
            low = middle + 1
    return split(gates, goes_at > rates[low]), rates[low]


def split(gates: GateSet, keep: Tensor) -> dict[str, Tensor]:
    """Masks by group, each (size,), of all gates' (N,)."""
    return {group.name: keep[group.gates].clone().cpu() for group in gates.groups}
