"""The main job: learn which channels to keep, remove the others, and say what it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.losses import pit_neg_si_sdr

__all__ = ["SearchSettings", "shrink"]

Loss = Callable[[Tensor, Tensor], Tensor]
KINDS = ("budget", "gumbel")
SCOPES = ("separator", "all")


@dataclass(frozen=True)
class SearchSettings:
    """How to look for the channels to keep; validates itself.

    Attributes:
        budget_macs: Share of the dense model's MACs to keep, in (0, 1]; above 1: their number;
            None: no bound.
        budget_params: The same for parameters.
        kind: ``"budget"`` learns under the budget; ``"gumbel"`` is the published rule.
        scope: ``"separator"`` or ``"all"``.
        steps: Optimiser steps.
        lr: Learning rate of the gates.
        seed: Same seed, same channels.
        round_to: Widths are multiples of this; ``"auto"``: of what this machine likes.
    """

    budget_macs: float | None = 0.5
    budget_params: float | None = None
    kind: str = "budget"
    scope: str = "separator"
    steps: int = 500
    lr: float = 0.1
    seed: int = 0
    round_to: int | str = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is {self.kind!r}; the kinds are {', '.join(KINDS)}.")
        if self.scope not in SCOPES:
            raise InputError(f"scope is {self.scope!r}; the scopes are {', '.join(SCOPES)}.")
        if self.kind == "budget" and self.budget_macs is None and self.budget_params is None:
            raise InputError(
                "The kind 'budget' needs budget_macs or budget_params, such as 0.5; only the "
                "published rule (kind 'gumbel') goes without."
            )
        if self.steps < 1 or self.lr <= 0:
            raise InputError(f"steps and lr must be above 0, got {self.steps=}, {self.lr=}.")
        number = isinstance(self.round_to, int) and self.round_to >= 1
        if not number and self.round_to != "auto":
            raise InputError(f"round_to is {self.round_to!r}; give a number from 1 on, or 'auto'.")


def shrink(
    model: nn.Module,
    example_inputs: Tensor,
    batches: Iterable[Any],
    settings: SearchSettings,
    loss: Loss = pit_neg_si_sdr,
    checkpoint: Path | None = None,
) -> dict[str, tuple[int, int]]:
    """Learn gates on a model and remove the channels that they close.

    Args:
        model: A separator: mixtures (B, T) in, estimates (B, S, T) out. Pruned in place.
        example_inputs: A mixture (B, T) on the model's device; MACs are counted on it.
        batches: Of (mixture (B, T), sources (B, S, T)).
        settings: How to search.
        loss: ``(estimates, sources) -> scalar``, lower is better.
        checkpoint: File to keep the state of the search in, and to go on from if it exists.

    Returns:
        For each group of coupled channels, by the name of its first layer: channels kept, and
        channels before.
    """
    from sepprune_tp import Budget, GateSet, SepPruneImportance, SepPrunePruner, learn_gates

    budget = None
    if settings.budget_macs is not None or settings.budget_params is not None:
        budget = Budget(macs=settings.budget_macs, params=settings.budget_params)
    gates = GateSet(model, example_inputs, scope=settings.scope, kind=settings.kind)
    learn_gates(
        gates,
        batches,
        loss,
        budget=budget,
        steps=settings.steps,
        lr=settings.lr,
        seed=settings.seed,
        checkpoint=checkpoint,
        round_to=settings.round_to,  # type: ignore[arg-type]
    )
    kept = {name: (int(mask.sum()), len(mask)) for name, mask in gates.masks().items()}
    SepPrunePruner(model, example_inputs, importance=SepPruneImportance(gates)).step()
    return kept
