"""torch-pruning's criteria on our graph: scores once, then the ratio that meets a budget.

The pruner itself says what it would remove at a ratio (``step(interactive=True)``, nothing is cut)
and the cost model says what that leaves, so that a ratio is found without pruning.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from sepprune_tp import SepPrunePruner
from sepprune_tp.gates.cost import CostModel
from sepprune_tp.losses import pit_neg_si_sdr

__all__ = [
    "BASELINES",
    "Baselines",
    "Gradients",
    "UnreachableError",
    "best_ratio",
    "gradients_of",
]

IMPORTANCES = (
    "GroupMagnitudeImportance",
    "GroupTaylorImportance",
    "GroupHessianImportance",
    "LAMPImportance",
    "FPGMImportance",
    "RandomImportance",
)
MODES: dict[str, dict[str, bool]] = {
    "": {"global_pruning": True},
    "local": {"global_pruning": False},
    "isomorphic": {"global_pruning": True, "isomorphic": True},
}
BASELINES = [f"{name}/{mode}".rstrip("/") for name in IMPORTANCES for mode in MODES]
"""torch-pruning's names; by themselves global, with ``/local`` or ``/isomorphic`` so."""

GRID, BISECTIONS = 64, 10  # together finer than a channel

Scores = dict[str, Tensor | None]


class UnreachableError(RuntimeError):
    """A criterion that meets a budget at no ratio."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of the loss by parameter name, over single mixtures.

    Attributes:
        mean: Mean gradient (Taylor).
        mean_square: Mean of the squared gradients (Hessian).
        seconds: What they took.
    """

    mean: dict[str, Tensor]
    mean_square: dict[str, Tensor]
    seconds: float


class _Given(tp.importance.Importance):
    """Scores that are known already, by root layer."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def __call__(self, group: Any) -> Tensor | None:
        score = self.scores[_root(group)]
        return None if score is None else score.clone()


@dataclass
class Baselines:
    """torch-pruning's criteria on one dense model.

    Attributes:
        model: The dense model; it is not changed.
        example: What it is called with; MACs are of this input.
    """

    model: nn.Module
    example: Tensor
    _pruners: dict[str, SepPrunePruner] = field(default_factory=dict)

    @functools.cached_property
    def cost_model(self) -> CostModel:
        """The cost of the model that any channels leave."""
        return CostModel(self.model, self.example, self._sets, self._gate_of)

    @functools.cached_property
    def _sets(self) -> list[Any]:
        return list(self._pruner("").graph.prunable_sets())

    @functools.cached_property
    def _gate_of(self) -> dict[int, int]:
        return {c: i for i, c in enumerate(c for s in self._sets for c in s.components)}

    @functools.cached_property
    def _gates_of(self) -> dict[str, list[int]]:
        """The gates of each root's channels."""
        graph = self._pruner("").graph
        found = {
            graph.name_of(s.root.owner): [self._gate_of[c] for c in s.root.components.tolist()]
            for s in self._sets
        }
        if len(found) != len(self._sets):
            raise RuntimeError("Two groups have the same root: scores cannot be kept by root.")
        return found

    def scores(self, importance: str, seed: int = 0, gradients: Gradients | None = None) -> Scores:
        """Score every group, once for all modes and budgets.

        The Hessian's gradients are put where the importance reads them, not accumulated by it:
        its ``accumulate_grad`` (torch-pruning 1.6) looks its sums up by name but keeps them by
        parameter, so that only the last mixture counts.

        Args:
            importance: One of torch-pruning's.
            seed: Of random scores.
            gradients: Needed for Taylor and Hessian.
        """
        pruner = self._pruner("")
        if "Taylor" in importance or "Hessian" in importance:
            if gradients is None:
                raise ValueError(f"{importance} needs gradients")
            named = gradients.mean if "Taylor" in importance else gradients.mean_square
            for name, parameter in self.model.named_parameters():
                parameter.grad = named[name].clone()
        pruner.importance = getattr(tp.importance, importance)()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                groups = pruner.graph.get_all_groups([], pruner.root_module_types)
                return {_root(group): pruner.estimate_importance(group) for group in groups}
        finally:
            self.model.zero_grad(set_to_none=True)

    def removed(self, mode: str, scores: Scores, ratio: float) -> dict[str, list[int]]:
        """What torch-pruning's pruner removes at a ratio: channels of each root."""
        pruner = self._pruner(mode)
        pruner.importance = _Given(scores)
        steps = pruner.iterative_steps
        pruner.per_step_pruning_ratio = pruner.iterative_pruning_ratio_scheduler(ratio, steps)
        pruner.reset()
        return {_root(group): list(group[0].idxs) for group in pruner.step(interactive=True)}

    def share(self, removed: Mapping[str, list[int]]) -> float:
        """Share of the MACs that stays when channels of some roots go."""
        keep = torch.ones(len(self._gate_of), dtype=torch.bool)
        for name, idxs in removed.items():
            keep[[self._gates_of[name][i] for i in idxs]] = False
        return self.cost_model.exact(keep).macs / self.cost_model.dense.macs

    def shares(self, mode: str, scores: Scores) -> Callable[[float], float]:
        """Share of the MACs by ratio; remembers what was asked."""
        return functools.cache(lambda ratio: self.share(self.removed(mode, scores, ratio)))

    def prune(self, model: nn.Module, mode: str, scores: Scores, ratio: float) -> None:
        """Let torch-pruning's pruner cut a copy of the model."""
        options = MODES[mode]
        SepPrunePruner(model, self.example, _Given(scores), pruning_ratio=ratio, **options).step()

    def _pruner(self, mode: str) -> SepPrunePruner:
        if mode not in self._pruners:
            options = MODES[mode]
            self._pruners[mode] = SepPrunePruner(
                self.model, self.example, _Given({}), pruning_ratio=0.5, **options
            )
        return self._pruners[mode]


def best_ratio(share_at: Callable[[float], float], budget: float) -> float:
    """The smallest ratio that meets a budget: the one that removes the fewest channels.

    The share does not fall all the way: torch-pruning leaves a group whole where the threshold
    would take all of it, so that large ratios may keep more than small ones.

    Args:
        share_at: Share of the MACs that a ratio leaves.
        budget: Share to meet from below.

    Raises:
        UnreachableError: If no ratio meets it.
    """
    ratios = [i / GRID for i in range(GRID)]
    below = next((ratio for ratio in ratios if share_at(ratio) <= budget), None)
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


def gradients_of(
    model: nn.Module, mixtures: Iterable[tuple[Tensor, Tensor]], loss: Any = pit_neg_si_sdr
) -> Gradients:
    """Gradients for Taylor and Hessian in one pass.

    Args:
        model: The dense model; left without gradients.
        mixtures: Batches of one mixture (1, T) and its sources (1, S, T).
        loss: ``(estimates, sources) -> scalar``.
    """
    model.eval()
    began = time.monotonic()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    square = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for mixture, sources in mixtures:
        model.zero_grad(set_to_none=True)
        loss(model(mixture), sources).backward()
        count += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad
                square[name] += parameter.grad.square()
    model.zero_grad(set_to_none=True)
    return Gradients(
        {name: value / count for name, value in total.items()},
        {name: value / count for name, value in square.items()},
        time.monotonic() - began,
    )


def _root(group: Any) -> str:
    return str(group._DG.name_of(group[0].dep.target.module))
