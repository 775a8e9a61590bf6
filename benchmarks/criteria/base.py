"""What a criterion is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

__all__ = ["Batch", "Chosen", "Criterion", "Search", "UnreachableError"]

Batch = tuple[Tensor, Tensor]
"""A mixture (B, T) and its sources (B, S, T)."""


class UnreachableError(RuntimeError):
    """A criterion that cannot meet a budget."""


@dataclass(frozen=True, eq=False)
class Search:
    """One choice of channels to make.

    Attributes:
        model: A copy of the dense model, in evaluation mode. A criterion may train it; what it
            holds afterwards is what is pruned.
        example: What the model is called with, (1, T) of one second; MACs are of this input.
        batches: ``batches(steps, batch_size)`` gives that many batches of 2 s training mixtures,
            the same ones for the same seed.
        budget: Share of the dense model's MACs that may stay.
        seed: Of everything random.
        scope: Of the gates: ``separator``, ``all`` or a list of modules.
        options: The criterion's own, from the experiment's configuration.
        devices: Lightning's number of devices; a criterion that cannot use several takes one.
    """

    model: nn.Module
    example: Tensor
    batches: Callable[[int, int], Iterable[Batch]]
    budget: float
    seed: int
    scope: str | list[str] = "separator"
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: int = 1


@dataclass(frozen=True, eq=False)
class Chosen:
    """The channels that a criterion keeps.

    Attributes:
        masks: By name of the group (as of ``GateSet(model, example, scope=...).groups``), True
            keeps, shape (size,).
        details: What to record beside the scores, as JSON takes it.
    """

    masks: dict[str, Tensor]
    details: dict[str, Any] = field(default_factory=dict)


class Criterion(Protocol):
    """A way to choose channels.

    Raises:
        UnreachableError: If it cannot meet the budget.
    """

    def __call__(self, search: Search) -> Chosen:
        """Choose the channels that stay."""
        ...
