"""The pruned models of the recovery benchmark, and which channels each of them kept."""

from __future__ import annotations

import copy
from pathlib import Path

import _fsdd_dense as dense
import torch
import torch_pruning as tp
from _fsdd_baselines import MODES, Baselines, best_ratio, gradients_of
from _fsdd_compare import Settings
from _fsdd_gates import METHODS, Search
from torch import Tensor, nn

from sepprune_tp import SepPruneImportance, SepPrunePruner
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.mixtures import batches

__all__ = ["pruned_model"]

Pruned = tuple[nn.Module, KeptChannels]


def pruned_model(
    name: str,
    model: nn.Module,
    data: Path,
    criterion: str,
    budget: float,
    seed: int,
    settings: Settings,
    work: Path,
) -> Pruned:
    """Prune a dense model as the FSDD comparison does, or read what an earlier run left.

    Args:
        name: Of the dense model.
        model: The dense model; not changed.
        data: Folder of the recordings.
        criterion: ``sepprune``, ``paper``, or a torch-pruning importance with its mode.
        budget: Share of the MACs to keep.
        seed: Of mixtures and gates.
        settings: Of the choice of channels.
        work: Where pruned models are kept.

    Returns:
        The pruned model and the channels that it kept.
    """
    slug = criterion.replace("/", "-")
    path = work / f"{name}_{slug}_{budget}_{seed}_{settings.search_steps}.pt"
    if path.exists():
        found: Pruned = torch.load(path, weights_only=False)  # written below
        return found
    example = torch.zeros(1, 8000)
    with dense.fast_global_norm():
        if criterion in METHODS:
            found = _by_gates(model, example, data, criterion, budget, seed, settings)
        else:
            found = _by_ratio(model, example, data, criterion, budget, seed, settings)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(found, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
    return found


def _by_gates(
    model: nn.Module,
    example: Tensor,
    data: Path,
    criterion: str,
    budget: float,
    seed: int,
    settings: Settings,
) -> Pruned:
    train = dense.train_set(data, seed=200 + seed, seconds=settings.search_seconds)
    given = list(batches(train, settings.search_batch, steps=settings.search_steps))
    gates = METHODS[criterion](Search(model, example, given, budget, seed))
    pruned = copy.deepcopy(model)
    kept = KeptChannels(pruned)
    SepPrunePruner(pruned, example, importance=SepPruneImportance(gates)).step()
    return pruned, kept


def _by_ratio(
    model: nn.Module,
    example: Tensor,
    data: Path,
    criterion: str,
    budget: float,
    seed: int,
    settings: Settings,
) -> Pruned:
    importance, _, mode = criterion.partition("/")
    train = dense.train_set(data, seed=100 + seed)
    gradients = gradients_of(model, batches(train, 1, steps=settings.gradient_mixtures))
    baselines = Baselines(model, example)
    found = baselines.scores(importance, seed, gradients)
    ratio = best_ratio(baselines.shares(mode, found), budget)
    pruned = copy.deepcopy(model)
    named = gradients.mean_square if "Hessian" in importance else gradients.mean
    for key, parameter in pruned.named_parameters():
        parameter.grad = named[key].clone()
    kept = KeptChannels(pruned)
    scorer = getattr(tp.importance, importance)()
    SepPrunePruner(pruned, example, scorer, pruning_ratio=ratio, **MODES[mode]).step()
    pruned.zero_grad(set_to_none=True)
    return pruned, kept
