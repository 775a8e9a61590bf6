"""From scores to hard masks that meet limits from below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..gates import GateGroup
from .exchange import exchanged
from .limits import Limits
from .ranking import Ranking, Steps

__all__ = ["select"]


def select(
    groups: Sequence[GateGroup],
    scores: Tensor,
    limits: Limits,
    *,
    steps: Steps = 1,
    floor: Tensor | None = None,
    ties: Tensor | None = None,
) -> Tensor:
    """The masks that keep the highest scores and meet the limits from below.

    Channels are taken in order of score, first the best of each group, until the next would exceed
    a limit; then channels further down that still fit are added. Where that leaves more free than
    the tolerance (few or heavy channels), widths of two groups are exchanged, as little as it
    takes. Predicted resources (latency, memory) are met as predicted.

    Args:
        groups: The groups; each keeps at least one step of channels.
        scores: Shape (N,).
        limits: The bounds.
        steps: Widths are multiples of this, or the full width: one number for all groups, or by
            group name (1 for those left out).
        floor: Channels that stay in any case, shape (N,), bool; e.g. those of a smaller budget.
        ties: Decides between equal scores, shape (N,), higher stays.

    Returns:
        True where a channel stays, shape (N,), bool.

    Raises:
        BudgetError: If not even the fewest channels fit.
        InputError: If a step is below 1 or of an unknown group.
    """
    ranking = Ranking(groups, scores, steps, floor, ties)
    limits.check_reachable(ranking.keep(ranking.least), len(groups), measure=False)
    low, high = 0, len(ranking.group)  # the first low bundles fit
    while low < high:
        middle = (low + high + 1) // 2
        if limits.met_by(ranking.keep(ranking.prefix(middle))):
            low = middle
        else:
            high = middle - 1
    counts = _filled(ranking, ranking.prefix(low), limits)
    if not torch.equal(counts, ranking.full) and not limits.is_tight(ranking.keep(counts)):
        counts = _filled(ranking, exchanged(ranking, counts, low, limits), limits)
    return ranking.keep(counts)


def _filled(ranking: Ranking, counts: Tensor, limits: Limits) -> Tensor:
    """Add bundles in order of score where they still fit; one failure settles its group."""
    counts, passed = counts.clone(), ranking.least.clone()
    full: set[int] = set()
    for group in ranking.group.tolist():
        passed[group] += 1
        if group in full or passed[group] <= counts[group]:
            continue
        counts[group] += 1
        if not limits.met_by(ranking.keep(counts)):
            counts[group] -= 1
            full.add(group)
            if len(full) == len(ranking.full):
                break
    return counts
