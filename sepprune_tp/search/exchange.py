"""Come closer to a limit than the order of scores does, where channels are few or heavy.

Some costs lie between those of two neighbouring channels of the order. For each pair of groups, one
gets another width and the other the widest that still fits; of models with few groups every choice
of widths is looked at. Among the results that are close enough, the one that departs least from the
order is taken, else the closest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .limits import Limits
from .ranking import Ranking

__all__ = ["exchanged"]

_ALL = 20_000  # choices of widths that are all looked at
_GROUPS = 16  # at most so many exchange widths: those whose next channels are nearest to the cut
_RADII = (1, 2, 4, 8, 16, 32, 64)  # by how many bundles the first group of a pair changes
_ROUNDS = 4
_CHUNK = 4_000_000  # mask values at a time


def exchanged(ranking: Ranking, counts: Tensor, cut: int, limits: Limits) -> Tensor:
    """Exchange widths between two groups at a time until a limit is met closely.

    Args:
        ranking: The order of the channels.
        counts: Bundles of each group that stay, shape (G,); within the limits.
        cut: How many bundles of the order stay before single ones were added.
        limits: The bounds.

    Returns:
        Counts within the limits, at least as close; ``counts`` where nothing is closer.
    """
    threshold = float(ranking.score[min(cut, len(ranking.score) - 1)])
    every = _every(ranking)
    if every is not None:
        met = torch.cat([limits.met_by_each(k) for k in _masks(ranking, every)])
        return _best(ranking, every[met], threshold, limits)[0]
    chosen = _near(ranking, counts, threshold)
    for _ in range(_ROUNDS):
        slack = limits.slack(ranking.keep(counts))
        best = None
        for radius in _RADII:
            candidates = _candidates(ranking, counts, chosen, radius, limits)
            if candidates is None:
                break
            found, close = _best(ranking, candidates, threshold, limits)
            best = found if best is None or close else _closer(ranking, best, found, limits)
            if close:
                return found
        if best is None or limits.slack(ranking.keep(best)) >= slack:
            break
        counts = best
    return counts


def _every(ranking: Ranking) -> Tensor | None:
    """Every choice of widths (K, G), or None if there are too many."""
    if math.prod((ranking.full - ranking.least + 1).tolist()) > _ALL:
        return None
    pairs = zip(ranking.least.tolist(), ranking.full.tolist(), strict=True)
    axes = [torch.arange(low, high + 1) for low, high in pairs]
    return torch.cartesian_prod(*axes).view(-1, len(axes))


def _near(ranking: Ranking, counts: Tensor, threshold: float) -> list[int]:
    """Groups that can change, those first whose next or last bundle lies nearest to the cut."""
    distances = []
    for group in range(len(counts)):
        scores = ranking.scores_of(group)
        place = int(counts[group] - ranking.least[group])
        around = scores[max(0, place - 1) : place + 1]
        if len(around):
            distances.append((float((around - threshold).abs().min()), group))
    return [group for _, group in sorted(distances)[:_GROUPS]]


def _candidates(
    ranking: Ranking, counts: Tensor, chosen: list[int], radius: int, limits: Limits
) -> Tensor | None:
    """Counts (K, G): one group changed by radius/2 to radius, another as wide as fits then."""
    firsts, seconds, rows = [], [], []
    for first in chosen:
        for change in _changes(radius):
            width = int(counts[first]) + change
            if not ranking.least[first] <= width <= ranking.full[first]:
                continue
            for second in chosen:
                if second != first:
                    row = counts.clone()
                    row[first] = width
                    firsts.append(first)
                    seconds.append(second)
                    rows.append(row)
    if not rows:
        return None
    table, index = torch.stack(rows), torch.tensor(seconds)
    line = torch.arange(len(rows))
    low, high = ranking.least[index], ranking.full[index]
    table[line, index] = low
    met = torch.cat([limits.met_by_each(k) for k in _masks(ranking, table)])
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        table[line, index] = middle
        fits = torch.cat([limits.met_by_each(k) for k in _masks(ranking, table)])
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle - 1)
        high = torch.maximum(low, high)
    table[line, index] = low
    return table[met] if bool(met.any()) else None


def _changes(radius: int) -> list[int]:
    sizes = range(radius // 2 + 1, radius + 1)
    return [sign * size for size in sizes for sign in (-1, 1)]


def _masks(ranking: Ranking, table: Tensor) -> Iterator[Tensor]:
    rows = max(1, _CHUNK // max(1, ranking.keep(table[0]).numel()))
    for part in table.split(rows):
        yield ranking.keep(part)


def _best(ranking: Ranking, table: Tensor, threshold: float, limits: Limits) -> tuple[Tensor, bool]:
    """The row that departs least from the order among the close ones, else the closest."""
    slack = torch.cat([limits.slack_of_each(k) for k in _masks(ranking, table)])
    close = torch.cat([limits.tight_each(k) for k in _masks(ranking, table)])
    if not bool(close.any()):
        return table[int(slack.argmin())], False
    rows = table[close]
    return rows[int(_departure(ranking, rows, threshold).argmin())], True


def _closer(ranking: Ranking, one: Tensor, other: Tensor, limits: Limits) -> Tensor:
    slacks = [limits.slack(ranking.keep(counts)) for counts in (one, other)]
    return one if slacks[0] <= slacks[1] else other


def _departure(ranking: Ranking, table: Tensor, threshold: float) -> Tensor:
    """Sum of score distances to the cut of bundles on its wrong side, (K, G) to (K,)."""
    total = torch.zeros(len(table), dtype=torch.float64)
    for group in range(table.shape[1]):
        distance = ranking.scores_of(group) - threshold
        lost = distance.clamp(min=0).flip(0).cumsum(0).flip(0)  # if so many first ones stay
        gained = (-distance).clamp(min=0).cumsum(0)
        nothing = distance.new_zeros(1)
        cost = torch.cat([lost, nothing]) + torch.cat([nothing, gained])
        total += cost[table[:, group] - ranking.least[group]]
    return total
