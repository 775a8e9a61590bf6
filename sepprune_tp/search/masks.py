"""Hard masks from learned gates, for any budget: cut anew without searching anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import BudgetError
from ..gates import GateSet
from .budget import Budget
from .limits import Limits
from .ranking import Ranking, Steps
from .selection import select

__all__ = ["Spent", "family", "masks_for", "settled", "spent"]

_TRIES = 12  # predictions for one budget, each measured on a pruned copy
_TOPS = 8  # more, each with one more step of channels, where those leave too much free
_AIM = 0.5  # where between bound and tolerance a prediction is aimed


@dataclass(frozen=True)
class Spent:
    """What masks spend of one bound.

    Attributes:
        asked: The bound as it was written.
        bound: In base units (MACs, parameters, ms, bytes).
        cost: Of the pruned model; measured where the resource has to be.
        dense: Of the dense model.
        tolerance: How far below the bound the cost should be at most, as a share of the bound.
    """

    asked: str
    bound: float
    cost: float
    dense: float
    tolerance: float

    @property
    def left(self) -> float:
        """Share of the bound that is left free."""
        return 1 - self.cost / self.bound

    @property
    def close(self) -> bool:
        """Whether that is within the tolerance (of several bounds, one is the tightest)."""
        return 0 <= self.left <= self.tolerance


def masks_for(gates: GateSet, budget: Budget, *, steps: Steps = 1) -> dict[str, Tensor]:
    """Masks that cut a model to a budget by the scores of its gates.

    The scores of one search order all channels: any budget from the one that was searched to the
    dense model can be had without another search. Equal scores are told apart by the sensitivity
    that the search measured at its start (``gates.ties``).

    Args:
        gates: Learned gates; they keep their present masks.
        budget: Upper bounds on the pruned model.
        steps: Widths are multiples of this, or the full width: one number for all groups, or by
            group name.

    Returns:
        By group name, True keeps, shape (size,); for ``gates.load_masks``.

    Raises:
        BudgetError: If the budget is out of reach.
    """
    keep = settled(gates, budget.limits(gates), steps=steps)
    return _by_group(gates, keep)


def family(
    gates: GateSet, budgets: Sequence[Budget], *, steps: Steps = 1
) -> list[dict[str, Tensor]]:
    """Nested masks for several budgets: a smaller budget's channels are among a larger one's.

    Args:
        gates: Learned gates; they keep their present masks.
        budgets: In any order; of any two, one must be the larger in every resource.
        steps: As for :func:`masks_for`.

    Returns:
        Masks in the order of the budgets.

    Raises:
        BudgetError: If one is out of reach, or two cannot be ordered.
    """
    limits = [budget.limits(gates) for budget in budgets]
    order = sorted(range(len(budgets)), key=lambda i: [e.bound for e in limits[i].entries])
    found: dict[int, Tensor] = {}
    floor: Tensor | None = None
    before: int | None = None
    for number in order:
        if before is not None:
            _check_ordered(budgets[before], limits[before], budgets[number], limits[number])
        floor = found[number] = settled(gates, limits[number], steps=steps, floor=floor)
        before = number
    return [_by_group(gates, found[number]) for number in range(len(budgets))]


def settled(
    gates: GateSet, limits: Limits, *, steps: Steps = 1, floor: Tensor | None = None
) -> Tensor:
    """The best scores within limits, predicted resources as measured on pruned copies.

    Args:
        gates: Learned gates.
        limits: The bounds.
        steps: As for :func:`masks_for`.
        floor: Channels that stay in any case, shape (N,), bool.

    Returns:
        True where a channel stays, shape (N,), bool.

    Raises:
        BudgetError: If the limits are out of reach.
    """
    if not limits.predicted:
        return _chosen(gates, limits, steps, floor)
    ranking = Ranking(gates.groups, gates.scores, steps, floor, gates.ties)
    least = ranking.keep(ranking.least)
    limits.check_reachable(least, len(gates.groups))
    best, best_left = least, 1.0
    known: dict[bytes, list[float]] = {}
    factors = [1.0] * len(limits)
    brackets = [_Bracket() for _ in factors]
    for _ in range(_TRIES):
        try:
            keep = _chosen(gates, limits.scaled(factors), steps, floor)
        except BudgetError:  # the least is predicted to cost more than it does
            keep = least
        key = keep.numpy().tobytes()
        if key not in known:
            known[key] = [entry.left for entry in spent(limits, keep).values()]
        left = known[key]
        if 0 <= min(left) < best_left:
            best, best_left = keep, min(left)
        close = any(s <= e.resource.tolerance for s, e in zip(left, limits.entries, strict=True))
        if min(left) >= 0 and (close or bool(keep.all())):
            return keep
        for index, limit in enumerate(limits.entries):
            if limit.resource.predicted:
                aim = 1 - _AIM * limit.resource.tolerance
                factors[index] = brackets[index].next(factors[index], left[index], aim)
    return _topped(ranking, limits, best)


def _topped(ranking: Ranking, limits: Limits, keep: Tensor) -> Tensor:
    """Add steps of channels that are measured to fit, the best first."""
    counts, passed, full = ranking.counts(keep), ranking.least.clone(), set[int]()
    tries = 0
    for group in ranking.group.tolist():
        passed[group] += 1
        if passed[group] <= counts[group] or group in full or tries == _TOPS:
            continue
        tries += 1
        counts[group] += 1
        if all(entry.left >= 0 for entry in spent(limits, ranking.keep(counts)).values()):
            keep = ranking.keep(counts)
        else:
            counts[group] -= 1
            full.add(group)
    return keep


def spent(limits: Limits, keep: Tensor) -> dict[str, Spent]:
    """What masks spend of each bound, predicted resources measured on a pruned copy.

    Args:
        limits: The bounds.
        keep: True where a gate is open, shape (N,), bool.

    Returns:
        By resource.
    """
    return {
        limit.name: Spent(
            asked=limit.asked.text,
            bound=limit.bound,
            cost=limit.resource.measured(keep),
            dense=limit.resource.dense,
            tolerance=limit.resource.tolerance,
        )
        for limit in limits.entries
    }


class _Bracket:
    """Finds the factor of a predicted bound at which the measured cost meets the real one."""

    def __init__(self) -> None:
        self._met, self._missed = 0.0, math.inf

    def next(self, factor: float, left: float, aim: float) -> float:
        """The factor to try next, after ``factor`` left a share of the bound (or missed it)."""
        if left >= 0:
            self._met = max(self._met, factor)
        else:
            self._missed = min(self._missed, factor)
        proposed = factor * aim / (1 - left)
        if self._met < proposed < self._missed:
            return proposed
        if self._met < self._missed < math.inf:
            return (self._met + self._missed) / 2
        return proposed


def _chosen(gates: GateSet, limits: Limits, steps: Steps, floor: Tensor | None) -> Tensor:
    return select(gates.groups, gates.scores, limits, steps=steps, floor=floor, ties=gates.ties)


def _check_ordered(smaller: Budget, low: Limits, larger: Budget, high: Limits) -> None:
    same = [e.resource for e in low.entries] == [e.resource for e in high.entries]
    pairs = zip(low.entries, high.entries, strict=False)
    if not same or any(one.bound > other.bound for one, other in pairs):
        raise BudgetError(
            f"{smaller} and {larger} cannot be ordered: the masks of a family are nested, so of "
            "two budgets one must be the larger in every resource, and both bound the same ones. "
            "Call masks_for for each instead."
        )


def _by_group(gates: GateSet, keep: Tensor) -> dict[str, Tensor]:
    return {group.name: keep[group.gates].clone() for group in gates.groups}
