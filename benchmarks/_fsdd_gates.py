"""The criteria of the FSDD benchmark that learn gates: ours and the paper's, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sepprune_tp import Budget, GateSet, SepPruneImportance, SepPrunePruner, learn_gates
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import masks_for

__all__ = ["METHODS", "Search", "prune_by_gates"]

LOWEST = 0.25  # share of the MACs at which a family is searched


@dataclass(frozen=True)
class Search:
    """What every method is given.

    Attributes:
        model: A copy of the dense model, which is going to be pruned.
        example: What it is called with; MACs are of this input.
        batches: As many batches of training mixtures as steps.
        budget: Share of the MACs to keep.
        seed: Of the search.
    """

    model: nn.Module
    example: Tensor
    batches: list[tuple[Tensor, Tensor]]
    budget: float
    seed: int


def _ours(search: Search) -> GateSet:
    """The default of the package."""
    return _learned(search, "budget")


def _looking_ahead(search: Search) -> GateSet:
    """Ours, for the channels that are best after reconstruction."""
    return _learned(search, "budget", lookahead=True)


def _of_a_family(search: Search) -> GateSet:
    """One search at the lowest budget, cut to this one without another."""
    gates = _learned(replace(search, budget=LOWEST), "budget", lookahead=True)
    gates.load_masks(masks_for(gates, Budget(macs=search.budget)))
    return gates


def _paper(search: Search) -> GateSet:
    """The published rule; its scores ranked to the budget, because it knows none."""
    return _learned(search, "gumbel")


METHODS: dict[str, Callable[[Search], GateSet]] = {
    "sepprune": _ours,
    "sepprune/lookahead": _looking_ahead,
    "sepprune/family": _of_a_family,
    "paper": _paper,
}
"""Name of a criterion to what learns its gates and sets their masks."""


def prune_by_gates(criterion: str, search: Search) -> dict[str, Any]:
    """Prune the model; what to record of the masks."""
    gates = METHODS[criterion](search)
    kept = {name: f"{int(mask.sum())}/{len(mask)}" for name, mask in gates.masks().items()}
    importance = SepPruneImportance(gates)
    SepPrunePruner(search.model, search.example, importance=importance).step()
    return {"kept": kept}


def _learned(search: Search, kind: str, lookahead: bool = False) -> GateSet:
    gates = GateSet(search.model, search.example, scope="separator", kind=kind)
    learn_gates(
        gates,
        search.batches,
        pit_neg_si_sdr,
        budget=Budget(macs=search.budget),
        steps=len(search.batches),
        seed=search.seed,
        progress=False,
        lookahead=lookahead,
    )
    return gates
