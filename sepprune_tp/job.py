"""The main job: learn which channels to keep, remove the others, and say what it changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet, remember
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.launching import launch, launched, processes_for
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.pruner import SepPrunePruner
from sepprune_tp.recovery.reconstruction import step_and_reconstruct
from sepprune_tp.search import Budget, SearchResult, Spent, family, learn_gates, share_of, spent
from sepprune_tp.search.batches import first_batches
from sepprune_tp.search.rounding import RoundTo, steps_for
from sepprune_tp.search.sharing import ItemBatches, Part

__all__ = [
    "Member",
    "SearchSettings",
    "Shrunk",
    "channels_kept",
    "cut",
    "search",
    "shrink",
    "shrink_family",
]

Loss = Callable[[Tensor, Tensor], Tensor]
KINDS = ("budget", "gumbel")
FIT_BATCHES = 8  # that least squares sees
SCOPES = ("separator", "all")


@dataclass(frozen=True)
class SearchSettings:
    """How to look for the channels to keep; validates itself.

    Attributes:
        budget_macs: MACs to keep: a share of the dense model's, a number above 1, or a string such
            as ``"50%"`` or ``"1.2G"``; None: no bound.
        budget_params: The same for parameters.
        budget_latency: Time of one forward pass: a share, milliseconds, or such as ``"15ms"``.
        budget_memory: Peak of one forward pass: a share, bytes, or such as ``"12MB"``.
        kind: ``"budget"`` learns under the budget; ``"gumbel"`` is the published rule.
        scope: ``"separator"`` or ``"all"``.
        steps: Optimiser steps.
        lr: Learning rate of the gates.
        seed: Same seed, same channels.
        round_to: Widths are multiples of this; ``"auto"``: of what this machine likes.
        reconstruct: Whether least squares gives the layers that lost inputs new weights.
        lookahead: Whether to look for the channels that are best after that; None: where they
            are reconstructed and the kind is ``"budget"``.
    """

    budget_macs: float | str | None = 0.5
    budget_params: float | str | None = None
    budget_latency: float | str | None = None
    budget_memory: float | str | None = None
    kind: str = "budget"
    scope: str = "separator"
    steps: int = 500
    lr: float = 0.1
    seed: int = 0
    round_to: RoundTo = 1
    reconstruct: bool = True
    lookahead: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; the kinds are {', '.join(KINDS)}.")
        if self.scope not in SCOPES:
            raise InputError(f"scope is {self.scope!r}; the scopes are {', '.join(SCOPES)}.")
        if self.kind == "budget" and self.budget is None:
            raise InputError(
                "The kind 'budget' needs a budget, such as budget_macs=0.5; only the published "
                "rule (kind 'gumbel') goes without."
            )
        if self.steps < 1 or self.lr <= 0:
            raise InputError(f"steps and lr must be above 0, got {self.steps=}, {self.lr=}.")
        if self.lookahead and not (self.reconstruct and self.kind == "budget"):
            raise InputError(
                "lookahead finds the channels that are best after reconstruction, with the kind "
                f"'budget'; got reconstruct={self.reconstruct} and kind={self.kind!r}."
            )
        number = isinstance(self.round_to, int) and self.round_to >= 1
        if not number and self.round_to != "auto":
            raise InputError(f"round_to is {self.round_to!r}; give a number from 1 on, or 'auto'.")

    @property
    def looks_ahead(self) -> bool:
        """Whether the search looks for the channels that are best after reconstruction."""
        if self.lookahead is None:
            return self.reconstruct and self.kind == "budget"
        return self.lookahead

    @property
    def budget(self) -> Budget | None:
        """The budget, or None if nothing is bounded."""
        bounds = (self.budget_macs, self.budget_params, self.budget_latency, self.budget_memory)
        return Budget(*bounds) if any(bound is not None for bound in bounds) else None


@dataclass(frozen=True)
class Shrunk:
    """What became of a model.

    Attributes:
        kept: For each group of coupled channels, by the name of its first layer: channels kept,
            and channels before.
        search: What the search did.
    """

    kept: dict[str, tuple[int, int]]
    search: SearchResult


def shrink(
    model: nn.Module,
    example_inputs: Tensor,
    batches: Iterable[Any],
    settings: SearchSettings,
    loss: Loss = pit_neg_si_sdr,
    checkpoint: Path | None = None,
    devices: int | str = 1,
    accelerator: str = "auto",
    progress: bool = True,
) -> Shrunk:
    """Learn gates on a model and remove the channels that they close.

    Args:
        model: A separator: mixtures (B, T) in, estimates (B, S, T) out. Pruned in place.
        example_inputs: A mixture (B, T) on the model's device; MACs are counted on it.
        batches: Of (mixture (B, T), sources (B, S, T)).
        settings: How to search.
        loss: ``(estimates, sources) -> scalar``, lower is better.
        checkpoint: File to keep the state of the search in, and to go on from if it exists.
        devices: Of the search, as for :func:`search`.
        accelerator: Likewise.
        progress: Whether to show a bar.

    Returns:
        What was kept, and how the search went.
    """
    fit, batches = first_batches(batches, FIT_BATCHES if settings.reconstruct else 0)
    how = (checkpoint, devices, accelerator, progress)
    gates, result = search(model, example_inputs, batches, settings, loss, *how)
    kept = channels_kept(gates)
    cut(gates, fit)
    return Shrunk(kept, result)


def cut(gates: GateSet, fit: Sequence[Any] = (), model: nn.Module | None = None) -> nn.Module:
    """Remove the channels that the present masks close.

    Args:
        gates: Gates with masks.
        fit: Batches to reconstruct the layers on that lost inputs; none: they keep their weights.
        model: What to cut: the model of the gates (default) or a copy of it.

    Returns:
        The model, pruned in place.
    """
    model = gates.model if model is None else model
    pruner = SepPrunePruner(model, gates.example_inputs, importance=SepPruneImportance(gates))
    if fit:
        step_and_reconstruct(pruner, fit)
    else:
        pruner.step()
    return model


def search(
    model: nn.Module,
    example_inputs: Tensor,
    batches: Iterable[Any],
    settings: SearchSettings,
    loss: Loss = pit_neg_si_sdr,
    checkpoint: Path | None = None,
    devices: int | str = 1,
    accelerator: str = "auto",
    progress: bool = True,
) -> tuple[GateSet, SearchResult]:
    """Learn gates on a model, which stays as it is.

    Args:
        model: A separator, as for :func:`shrink`.
        example_inputs: A mixture (B, T) on the model's device.
        batches: Of (mixture (B, T), sources (B, S, T)).
        settings: How to search.
        loss: ``(estimates, sources) -> scalar``, lower is better.
        checkpoint: File to keep the state of the search in, and to go on from if it exists.
        devices: Lightning's number of devices. They share every batch, in processes that are
            started here and get copies of all arguments, or that are there already.
        accelerator: Lightning's kind of devices, where there are several.
        progress: Whether to show a bar.

    Returns:
        The gates, with masks that meet the budget, and what the search did.

    Raises:
        InputError: If devices cannot share a batch evenly, or an argument cannot be copied.
    """
    gates = GateSet(model, example_inputs, scope=settings.scope, kind=settings.kind)
    if launched() or (count := processes_for(devices, accelerator)) == 1:
        return gates, _learn(gates, batches, settings, loss, checkpoint, progress)
    if isinstance(batches, ItemBatches):
        batches.shared(Part(0, count))  # fails here rather than in new processes
    copied = copy.deepcopy(model).cpu()
    given = (copied, example_inputs, batches, settings, loss, checkpoint, progress)
    found = launch(_search_copy, *given, devices=devices, accelerator=accelerator)
    result, scores, gates.ties, keep = found
    gates.scores = scores.to(gates.scores.device)
    gates.set_keep(keep)
    remember(gates)
    return gates, result


def _learn(
    gates: GateSet,
    batches: Iterable[Any],
    settings: SearchSettings,
    loss: Loss,
    checkpoint: Path | None,
    progress: bool,
) -> SearchResult:
    return learn_gates(
        gates,
        share_of(batches),
        loss,
        budget=settings.budget,
        steps=settings.steps,
        lr=settings.lr,
        seed=settings.seed,
        checkpoint=checkpoint,
        progress=progress,
        round_to=settings.round_to,
        lookahead=settings.looks_ahead,
    )


def _search_copy(
    device: torch.device,
    model: nn.Module,
    example_inputs: Tensor,
    batches: Iterable[Any],
    settings: SearchSettings,
    loss: Loss,
    checkpoint: Path | None,
    progress: bool,
) -> tuple[SearchResult, Tensor, Tensor | None, Tensor]:
    """What each process does; the result, and scores, ties and masks of the gates, each (N,)."""
    example_inputs = example_inputs.to(device)
    gates = GateSet(model.to(device), example_inputs, scope=settings.scope, kind=settings.kind)
    result = _learn(gates, batches, settings, loss, checkpoint, progress)
    return result, gates.scores.cpu(), gates.ties, gates.keep


def channels_kept(gates: GateSet) -> dict[str, tuple[int, int]]:
    """For each group of coupled channels: channels kept by the present masks, and before."""
    return {name: (int(mask.sum()), len(mask)) for name, mask in gates.masks().items()}


@dataclass(frozen=True)
class Member:
    """One model of a family.

    Attributes:
        budget: Its bound on MACs as it was given: ``0.25``, ``50%``, ``1.2G``.
        model: The pruned model.
        kept: Channels kept and before, by group.
        spent: What it spends of its budget.
        search: What the search did, which is one for the whole family.
    """

    budget: str
    model: nn.Module
    kept: dict[str, tuple[int, int]]
    spent: dict[str, Spent]
    search: SearchResult


def shrink_family(
    model: nn.Module,
    example_inputs: Tensor,
    batches: Iterable[Any],
    settings: SearchSettings,
    budgets: Sequence[str],
    loss: Loss = pit_neg_si_sdr,
    checkpoint: Path | None = None,
    devices: int | str = 1,
    accelerator: str = "auto",
    progress: bool = True,
) -> list[Member]:
    """Search once, at the lowest budget, and cut copies of a model to several.

    The search tightens its limit from the dense model to the budget, so it passes every larger
    budget on its way and orders the channels that they lose.

    Args:
        model: A separator, which stays as it is.
        example_inputs: A mixture (B, T) on the model's device.
        batches: Of (mixture (B, T), sources (B, S, T)).
        settings: How to search; its own budget is not used.
        budgets: Bounds on MACs, in the forms of ``Budget``.
        loss: ``(estimates, sources) -> scalar``, lower is better.
        checkpoint: File to keep the state of the search in, and to go on from if it exists.
        devices: Of the search, as for :func:`search`.
        accelerator: Likewise.
        progress: Whether to show a bar.

    Returns:
        One member a budget, in the order given; their channels are nested.

    Raises:
        InputError: If there are no budgets, or one twice.
        BudgetError: If one cannot be read or reached.
    """
    bounds = [Budget(macs=budget) for budget in budgets]
    gates = GateSet(model, example_inputs, scope=settings.scope, kind=settings.kind)
    limits = [bound.limits(gates) for bound in bounds]
    values = [limit.entries[0].bound for limit in limits]
    if not values or len(set(values)) < len(values):
        raise InputError(
            f"budgets are {', '.join(budgets) or 'none'}; give different ones, such as 0.25,0.5"
        )
    lowest = budgets[values.index(min(values))]
    one = replace(
        settings,
        budget_macs=lowest,
        budget_params=None,
        budget_latency=None,
        budget_memory=None,
    )
    fit, batches = first_batches(batches, FIT_BATCHES if settings.reconstruct else 0)
    how = (checkpoint, devices, accelerator, progress)
    gates, result = search(model, example_inputs, batches, one, loss, *how)
    members = []
    steps = steps_for(gates, settings.round_to)
    cuts = family(gates, bounds, steps=steps)
    for budget, limit, masks in zip(budgets, limits, cuts, strict=True):
        gates.load_masks(masks)
        member = cut(gates, fit, copy.deepcopy(gates.model))
        kept, cost = channels_kept(gates), spent(limit, gates.keep)
        members.append(Member(budget, member, kept, cost, result))
    return members
