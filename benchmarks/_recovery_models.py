"""The pruned models of the recovery benchmark, and which channels each of them kept."""

from __future__ import annotations

import copy
from pathlib import Path

import _fsdd_dense as dense
import torch
import torch_pruning as tp
from _fsdd_compare import BISECTIONS, SEARCH_BATCH, SEARCH_SECONDS, prune_by_gates, taylor_gradients
from torch import Tensor, nn

from sepprune_tp import SepPrunePruner, profile
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.mixtures import batches

__all__ = ["CRITERIA", "pruned_model"]

CRITERIA = ("GroupTaylorImportance", "sepprune")


def pruned_model(
    model: nn.Module,
    data: Path,
    criterion: str,
    budget: float,
    seed: int,
    search_steps: int,
    work: Path,
) -> tuple[nn.Module, KeptChannels]:
    """Prune a dense model, or read what an earlier run left.

    Args:
        model: The dense model; not changed.
        data: Folder of the recordings.
        criterion: One of ``CRITERIA``.
        budget: Share of the MACs to keep.
        seed: Of mixtures and gates.
        search_steps: Of the gates.
        work: Where pruned models are kept.

    Returns:
        The pruned model and the channels that it kept.
    """
    path = work / f"{criterion}_{budget}_{seed}_{search_steps}.pt"
    if path.exists():
        found: tuple[nn.Module, KeptChannels] = torch.load(path, weights_only=False)  # our own
        return found
    example = torch.zeros(1, 8000)
    if criterion == "sepprune":
        train = dense.train_set(data, seed=200 + seed, seconds=SEARCH_SECONDS)
        search = list(batches(train, SEARCH_BATCH, steps=search_steps))
        pruned = copy.deepcopy(model)
        kept = KeptChannels(pruned)
        with dense.fast_global_norm():
            prune_by_gates(pruned, example, search, budget, seed, search_steps)
    else:
        gradients = taylor_gradients(model, dense.train_set(data, seed=100 + seed))
        pruned, kept = _by_taylor(model, example, gradients, budget)
    work.mkdir(parents=True, exist_ok=True)
    torch.save((pruned, kept), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
    return pruned, kept


def _by_taylor(
    model: nn.Module, example: Tensor, gradients: dict[str, Tensor], budget: float
) -> tuple[nn.Module, KeptChannels]:
    """The smallest global ratio that meets the budget, by bisection."""
    limit = budget * profile(model, example).macs
    low, high = 0.0, 1.0
    best: tuple[nn.Module, KeptChannels] | None = None
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(model)
        for key, parameter in candidate.named_parameters():
            parameter.grad = gradients[key].clone()
        kept = KeptChannels(candidate)
        importance = tp.importance.GroupTaylorImportance()
        SepPrunePruner(
            candidate, example, importance, pruning_ratio=ratio, global_pruning=True
        ).step()
        candidate.zero_grad(set_to_none=True)
        if profile(candidate, example).macs <= limit:
            high, best = ratio, (candidate, kept)
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"Taylor cannot reach {budget:.0%} of the MACs at any ratio.")
    return best
