"""A budget on one model: a bound for each resource, and whether masks meet them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BudgetError
from ..gates import Resource
from .quantity import Quantity

__all__ = ["Limit", "Limits"]


@dataclass(frozen=True)
class Limit:
    """An upper bound on one resource.

    Attributes:
        resource: The resource.
        bound: In its base unit (MACs, parameters, ms, bytes).
        asked: The bound as it was written.
    """

    resource: Resource
    bound: float
    asked: Quantity

    @property
    def name(self) -> str:
        """Keyword of ``Budget``."""
        return self.resource.name


@dataclass(frozen=True)
class Limits:
    """Upper bounds on several resources, in order.

    Attributes:
        entries: One a resource.
        of: What they bound: ``model`` or ``separator``.
    """

    entries: tuple[Limit, ...]
    of: str = "model"

    def __len__(self) -> int:
        """Number of bounds."""
        return len(self.entries)

    @property
    def predicted(self) -> tuple[Limit, ...]:
        """Those whose resource has to be measured on the pruned model."""
        return tuple(limit for limit in self.entries if limit.resource.predicted)

    def met_by(self, keep: Tensor) -> bool:
        """Whether masks (N,) lie within every bound, predicted resources as predicted."""
        return all(limit.resource.exact(keep) <= limit.bound for limit in self.entries)

    def slack(self, keep: Tensor) -> float:
        """How much of its bound the tightest resource leaves free; negative where exceeded."""
        return min(1 - limit.resource.exact(keep) / limit.bound for limit in self.entries)

    def is_tight(self, keep: Tensor) -> bool:
        """Whether masks come as close to some bound from below as its resource promises."""
        return bool(self.tight_each(keep[None])[0])

    def met_by_each(self, keeps: Tensor) -> Tensor:
        """:meth:`met_by` of several masks, (K, N) to (K,), bool."""
        return (self._spaces(keeps) >= 0).all(1)

    def slack_of_each(self, keeps: Tensor) -> Tensor:
        """:meth:`slack` of several masks, (K, N) to (K,), float64."""
        return self._spaces(keeps).min(1).values

    def tight_each(self, keeps: Tensor) -> Tensor:
        """:meth:`is_tight` of several masks, (K, N) to (K,), bool."""
        spaces = self._spaces(keeps)
        tolerances = torch.tensor([limit.resource.tolerance for limit in self.entries]).double()
        return (spaces >= 0).all(1) & (spaces <= tolerances).any(1)

    def _spaces(self, keeps: Tensor) -> Tensor:
        """Share of each bound that is left free, (K, N) to (K, R)."""
        columns = [1 - e.resource.exact_many(keeps) / e.bound for e in self.entries]
        return torch.stack(columns, 1)

    def expected(self, probability: Tensor) -> Tensor:
        """Expected costs as shares of the dense model's, differentiable.

        Args:
            probability: That each gate is open, shape (N,).

        Returns:
            Shape (R,), float64, in the order of ``entries``.
        """
        return torch.stack(
            [
                limit.resource.expected(probability).double() / limit.resource.dense
                for limit in self.entries
            ]
        )

    def shares(self) -> Tensor:
        """The bounds as shares of the dense model's cost, at most 1, shape (R,), float64."""
        shares = [min(1.0, limit.bound / limit.resource.dense) for limit in self.entries]
        return torch.tensor(shares, dtype=torch.float64)

    def check_reachable(self, least: Tensor, groups: int, *, measure: bool = True) -> None:
        """Refuse bounds that no masks can meet.

        Args:
            least: The smallest masks, shape (N,), bool.
            groups: How many groups they are of.
            measure: Whether to measure predicted resources on a pruned copy.

        Raises:
            BudgetError: With the smallest reachable figures, in the units of the budget.
        """
        missed = []
        for limit in self.entries:
            resource, dense = limit.resource, limit.resource.dense
            cost = resource.measured(least) if measure else resource.exact(least)
            if cost > limit.bound:
                missed.append(
                    f"{limit.name}={limit.asked.text} asked, {limit.name}="
                    f"{limit.asked.like(cost, dense)} reachable ({cost:,.10g} "
                    f"{resource.unit}, {cost / dense:.1%} of the dense {self.of})"
                )
        if missed:
            raise BudgetError(
                f"the budget is out of reach with the fewest channels left in each of {groups} "
                f"groups: {'; '.join(missed)}. Ask for more, or widen the scope (scope='all')."
            )

    def scaled(self, factors: Sequence[float]) -> Limits:
        """The same with each bound multiplied by a factor."""
        entries = tuple(
            Limit(limit.resource, limit.bound * factor, limit.asked)
            for limit, factor in zip(self.entries, factors, strict=True)
        )
        return Limits(entries, self.of)
