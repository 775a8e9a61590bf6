"""Our search: learned gates that compute what pruning would leave, under the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.criteria.base import Batch, Chosen, Search
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.memory import remembered
from benchmarks.criteria.options import OptionError, one_of, positive, read
from benchmarks.criteria.ranking import reaching
from sepprune_tp import Budget, Distillation, GateSet, job, learn_gates
from sepprune_tp.job import SearchSettings
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import masks_for

__all__ = ["LOWEST", "Options", "choose"]

LOWEST = 0.25
"""Share of the MACs at which a family is searched."""


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        kind: ``budget`` (ours) or ``gumbel`` (the paper's gates, ranked to the budget).
        lookahead: Whether open channels stand in for closed ones, as after reconstruction.
        family: Whether to search at :data:`LOWEST` and cut to the budget by the scores.
        distill: ``none``: the task loss alone; ``waveform``: also the estimates of the dense model;
            ``features``: also the outputs of the gated groups' root layers.
        steps: Of the search.
        batch: Mixtures in a step.
        lr: Of Adam.
        rounded: Whether widths are rounded to what the machine at hand likes, within the budget.
    """

    kind: str = "budget"
    lookahead: bool = False
    family: bool = False
    distill: str = "none"
    steps: int = 500
    batch: int = 1
    lr: float = 0.1
    rounded: bool = False

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("budget", "gumbel"))
        one_of("distill", self.distill, ("none", "waveform", "features"))
        positive(steps=self.steps, batch=self.batch, lr=self.lr)
        if self.lookahead and self.kind != "budget":
            raise OptionError(f"lookahead with kind={self.kind!r}: only 'budget' looks ahead")
        if self.rounded and self.family:
            raise OptionError("rounded: for a search at its own budget, not for a family")


def choose(search: Search) -> Chosen:
    """Learn gates and keep what they leave open."""
    options = read(Options, search.options)
    if not options.family:
        return Chosen(_learned(search, options, search.budget).masks())
    searched = min(LOWEST, search.budget)
    gates = remembered(
        search, ("family", options, searched), lambda: _learned(search, options, searched)
    )
    return Chosen(masks_for(gates, Budget(macs=search.budget)), {"searched at": searched})


def _learned(search: Search, options: Options, budget: float) -> GateSet:
    """Gates of the search's model after a search at a budget."""
    batches = search.batches(options.steps, options.batch)
    if search.devices > 1:
        return _learned_by_several(search, options, budget, list(batches))
    gates = gates_of(search, options.kind)
    with reaching(budget):
        learn_gates(
            gates,
            batches,
            _loss(options.distill, gates),
            budget=Budget(macs=budget),
            steps=options.steps,
            lr=options.lr,
            seed=search.seed,
            progress=False,
            lookahead=options.lookahead,
            round_to="auto" if options.rounded else 1,
        )
    return gates


def _learned_by_several(
    search: Search, options: Options, budget: float, batches: Sequence[Batch]
) -> GateSet:
    """The same, every batch shared by several devices."""
    if options.distill != "none" or options.rounded or not isinstance(search.scope, str):
        raise OptionError("several devices: distill, rounded and a scope of modules are for one")
    settings = SearchSettings(
        budget_macs=budget,
        kind=options.kind,
        scope=search.scope,
        steps=options.steps,
        lr=options.lr,
        seed=search.seed,
        lookahead=options.lookahead,
    )
    with reaching(budget):
        model, example = search.model, search.example
        return job.search(model, example, batches, settings, devices=search.devices)[0]


def _loss(distill: str, gates: GateSet) -> Any:
    """The task loss, or with it a distillation from the dense model."""
    if distill == "none":
        return pit_neg_si_sdr
    names = [group.name for group in gates.groups] if distill == "features" else []
    return Distillation(features=dict.fromkeys(names, 1 / max(1, len(names))), kept=gates)
