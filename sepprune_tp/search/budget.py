"""``Budget``: how much of a model may stay, and the masks that meet it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BudgetError
from ..gates import Cost, CostModel, GateGroup

__all__ = ["Budget", "Limits", "smallest", "within"]


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the cost of the pruned model.

    Attributes:
        macs: MACs: a share of the dense model in (0, 1], or an absolute number above 1.
        params: Parameters, likewise.
        of: What the bounds (and shares) are of: the whole ``"model"`` or the ``"separator"``.
    """

    macs: float | None = None
    params: float | None = None
    of: str = "model"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BudgetError: If none is given or one is not a positive number.
        """
        if self.of not in ("model", "separator"):
            raise BudgetError(f"of={self.of!r}: a budget is of='model' or of='separator'")
        if self.macs is None and self.params is None:
            raise BudgetError(
                "an empty budget bounds nothing: give macs= or params=, e.g. macs=0.5"
            )
        for name in ("macs", "params"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise BudgetError(
                    f"{name}={value!r}: give a share of the dense model in (0, 1] or a number of "
                    f"{name} above 1"
                )

    def limits(self, dense: Cost) -> Limits:
        """The bounds as numbers for one dense model."""
        inside = self.of == "separator"
        macs = dense.separator_macs if inside else dense.macs
        params = dense.separator_params if inside else dense.params
        return Limits(_bound(self.macs, macs), _bound(self.params, params), inside)


@dataclass(frozen=True)
class Limits:
    """Bounds in MACs and parameters; infinity where there is none.

    Attributes:
        macs: Multiply-accumulates on the example input.
        params: Parameters.
        separator: Whether they are of the separator alone.
    """

    macs: float
    params: float
    separator: bool

    def met_by(self, cost: Cost) -> bool:
        """Whether a cost lies within every bound."""
        if self.separator:
            return cost.separator_macs <= self.macs and cost.separator_params <= self.params
        return cost.macs <= self.macs and cost.params <= self.params


def _bound(value: float | None, dense: int) -> float:
    if value is None:
        return float("inf")
    return value * dense if value <= 1 else float(value)


def smallest(model: CostModel, groups: list[GateGroup]) -> Cost:
    """The smallest reachable cost: one channel in every group."""
    keep = torch.zeros(sum(g.size for g in groups), dtype=torch.bool)
    keep[[g.start for g in groups]] = True
    return model.exact(keep)


def check_reachable(model: CostModel, groups: list[GateGroup], limits: Limits) -> None:
    """Refuse a budget that no masks can meet.

    Raises:
        BudgetError: With the smallest reachable figures.
    """
    least = smallest(model, groups)
    if limits.met_by(least):
        return
    dense = model.dense
    if limits.separator:
        found = [
            ("MACs", limits.macs, least.separator_macs, dense.separator_macs),
            ("parameters", limits.params, least.separator_params, dense.separator_params),
        ]
    else:
        found = [
            ("MACs", limits.macs, least.macs, dense.macs),
            ("parameters", limits.params, least.params, dense.params),
        ]
    where = "separator" if limits.separator else "model"
    missed = [
        f"{bound:,.0f} {name} asked, {reach:,} reachable ({reach / total:.1%} of the dense {where})"
        for name, bound, reach, total in found
        if reach > bound
    ]
    raise BudgetError(
        f"the budget is out of reach with one channel left in each of {len(groups)} groups: "
        f"{'; '.join(missed)}. Ask for more, or widen the scope (scope='all')."
    )


def within(model: CostModel, groups: list[GateGroup], scores: Tensor, limits: Limits) -> Tensor:
    """The masks that keep the highest scores and meet the limits from below.

    Channels are taken in order of score, first the best of each group, until the next would exceed
    a limit; then single channels further down that still fit are added.

    Args:
        model: Cost model.
        groups: The groups; each keeps at least one channel.
        scores: Shape (N,).
        limits: The bounds.

    Returns:
        True where a channel stays, shape (N,), bool.

    Raises:
        BudgetError: If not even one channel a group fits.
    """
    check_reachable(model, groups, limits)
    scores = scores.detach().double().cpu()
    first = torch.tensor([g.start + int(scores[g.gates].argmax()) for g in groups])
    ranked = scores.clone()
    ranked[first] = float("inf")
    order = torch.argsort(ranked, descending=True, stable=True)
    low, high = len(groups), order.numel()  # a prefix of length low fits
    while low < high:
        middle = (low + high + 1) // 2
        if limits.met_by(model.exact(_prefix(order, middle))):
            low = middle
        else:
            high = middle - 1
    keep = _prefix(order, low)
    return _filled(model, groups, order[low:], keep, limits)


def _prefix(order: Tensor, length: int) -> Tensor:
    keep = torch.zeros(order.numel(), dtype=torch.bool)
    keep[order[:length]] = True
    return keep


def _filled(
    model: CostModel, groups: list[GateGroup], rest: Tensor, keep: Tensor, limits: Limits
) -> Tensor:
    """Add channels in order of score where they still fit; one failure settles its group."""
    group_of = torch.empty(keep.numel(), dtype=torch.long)
    for number, group in enumerate(groups):
        group_of[group.gates] = number
    full: set[int] = set()
    for index in rest.tolist():
        number = int(group_of[index])
        if number in full:
            continue
        keep[index] = True
        if not limits.met_by(model.exact(keep)):
            keep[index] = False
            full.add(number)
            if len(full) == len(groups):
                break
    return keep
