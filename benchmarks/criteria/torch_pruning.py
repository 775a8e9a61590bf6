"""torch-pruning's criteria on our graph: the masks that its own pruner would cut.

The pruner says what it would remove at a ratio (``step(interactive=True)``, nothing is cut); the
smallest ratio that meets the budget is taken. Scores are of the dense model, so that a seed's
gradients serve all of these criteria and budgets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.criteria.base import Chosen, Search, UnreachableError
from benchmarks.criteria.gating import gates_of, scope_of, sets_of
from benchmarks.criteria.gradients import Gradients, gradients_for
from benchmarks.criteria.options import one_of, positive, read
from sepprune_tp import SepPrunePruner

__all__ = ["IMPORTANCES", "MODES", "Options", "choose", "smallest_ratio"]

_GIVEN = tp.importance
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "GroupMagnitudeImportance": _GIVEN.GroupMagnitudeImportance,
    "GroupMagnitudeImportance-L1": functools.partial(_GIVEN.GroupMagnitudeImportance, p=1),
    "GroupTaylorImportance": _GIVEN.GroupTaylorImportance,
    "GroupHessianImportance": _GIVEN.GroupHessianImportance,
    "LAMPImportance": _GIVEN.LAMPImportance,
    "FPGMImportance": _GIVEN.FPGMImportance,
    "RandomImportance": _GIVEN.RandomImportance,
}
"""By torch-pruning's name; magnitudes are L2 norms, ``-L1`` L1 norms."""

MODES: dict[str, dict[str, bool]] = {
    "global": {"global_pruning": True},
    "local": {"global_pruning": False},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
"""torch-pruning's options for what is ranked together."""

GRID, BISECTIONS = 64, 10  # of the ratio; together finer than a channel

Scores = dict[str, Tensor | None]


@dataclass(frozen=True)
class Options:
    """Which criterion.

    Attributes:
        importance: One of :data:`IMPORTANCES`.
        mode: One of :data:`MODES`.
        mixtures: Single training mixtures whose gradients Taylor and Hessian see.
    """

    importance: str = "GroupMagnitudeImportance"
    mode: str = "global"
    mixtures: int = 128

    def __post_init__(self) -> None:
        one_of("importance", self.importance, tuple(IMPORTANCES))
        one_of("mode", self.mode, tuple(MODES))
        positive(mixtures=self.mixtures)


def choose(search: Search) -> Chosen:
    """Keep what torch-pruning's pruner would leave.

    Raises:
        UnreachableError: If no ratio meets the budget.
    """
    options = read(Options, search.options)
    gates = gates_of(search)
    given = _Given()
    scope, together = scope_of(search), MODES[options.mode]
    pruner = SepPrunePruner(search.model, search.example, given, 0.5, scope, **together)
    pruner.keeps_best = False
    given.scores = _scores(pruner, search, options, {group.name for group in gates.groups})
    channels = {
        group.name: [one.components.index(c) for c in one.root.components.tolist()]
        for group, one in zip(gates.groups, sets_of(gates), strict=True)
    }

    @functools.cache
    def keep(ratio: float) -> Tensor:
        """True where a gate stays, shape (N,)."""
        keep = torch.ones(len(gates), dtype=torch.bool)
        starts = {group.name: group.start for group in gates.groups}
        for name, idxs in _removed(pruner, ratio):
            keep[[starts[name] + channels[name][i] for i in idxs]] = False
        return keep

    dense = gates.cost_model.dense.macs
    ratio = smallest_ratio(lambda r: gates.cost_model.exact(keep(r)).macs / dense, search.budget)
    masks = {group.name: keep(ratio)[group.gates].clone() for group in gates.groups}
    return Chosen(masks, {"ratio": ratio})


def smallest_ratio(share_at: Callable[[float], float], budget: float) -> float:
    """The smallest ratio that meets a budget: the one that removes the fewest channels.

    The share does not fall all the way: torch-pruning leaves a group whole where the threshold
    would take all of it, so that large ratios may keep more than small ones.

    Args:
        share_at: Share of the MACs that a ratio leaves.
        budget: Share to meet from below.

    Raises:
        UnreachableError: If no ratio meets it.
    """
    below = next((i / GRID for i in range(GRID) if share_at(i / GRID) <= budget), None)
    if below is None:
        raise UnreachableError(f"no ratio leaves {budget:.0%} of the MACs or less")
    above = max(0.0, below - 1 / GRID)
    for _ in range(BISECTIONS):
        middle = (above + below) / 2
        if share_at(middle) <= budget:
            below = middle
        else:
            above = middle
    return below


class _Given(tp.importance.Importance):
    """Scores that are known already, by root layer."""

    def __init__(self) -> None:
        self.scores: Scores = {}

    def __call__(self, group: Any) -> Tensor | None:
        score = self.scores.get(_root(group))
        return None if score is None else score.clone()


def _scores(pruner: SepPrunePruner, search: Search, options: Options, gated: set[str]) -> Scores:
    """Score the gated groups.

    The Hessian's gradients are put where the importance reads them, not accumulated by it: its
    ``accumulate_grad`` (torch-pruning 1.6) looks its sums up by name but keeps them by parameter,
    so that only the last mixture counts.
    """
    model, given = search.model, pruner.importance
    if options.importance in ("GroupTaylorImportance", "GroupHessianImportance"):
        _put(model, gradients_for(search, options.mixtures), "Hessian" in options.importance)
    pruner.importance = IMPORTANCES[options.importance]()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(search.seed)
            groups = list(pruner.graph.get_all_groups([], pruner.root_module_types))
            found = {_root(group): pruner.estimate_importance(group) for group in groups}
    finally:
        model.zero_grad(set_to_none=True)
        pruner.importance = given
    return {name: score for name, score in found.items() if name in gated}


def _put(model: nn.Module, gradients: Gradients, squared: bool) -> None:
    named = gradients.mean_square if squared else gradients.mean
    for name, parameter in model.named_parameters():
        parameter.grad = named[name].clone()


def _removed(pruner: SepPrunePruner, ratio: float) -> list[tuple[str, list[int]]]:
    """What the pruner removes at a ratio: root layers and their channels."""
    steps = pruner.iterative_steps
    pruner.per_step_pruning_ratio = pruner.iterative_pruning_ratio_scheduler(ratio, steps)
    pruner.reset()
    return [(_root(group), list(group[0].idxs)) for group in pruner.step(interactive=True)]


def _root(group: Any) -> str:
    return str(group._DG.name_of(group[0].dep.target.module))
