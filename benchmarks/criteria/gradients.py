"""Gradients of the task loss over single mixtures, remembered between budgets and criteria."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.criteria.base import Batch, Search
from benchmarks.criteria.memory import remembered
from sepprune_tp._modes import recurrent_gradients
from sepprune_tp.losses import pit_neg_si_sdr

__all__ = ["Gradients", "gradients_for", "gradients_of"]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of the loss by parameter name.

    Attributes:
        mean: Mean over the mixtures (Taylor).
        mean_square: Mean of the squares (Hessian).
    """

    mean: dict[str, Tensor]
    mean_square: dict[str, Tensor]


def gradients_for(search: Search, mixtures: int) -> Gradients:
    """The gradients of a search, taken once for the same weights and mixtures.

    Args:
        search: Its model is left without gradients.
        mixtures: How many.
    """
    return remembered(
        search,
        ("gradients", mixtures),
        lambda: gradients_of(search.model, search.batches(mixtures, 1)),
    )


def gradients_of(model: nn.Module, batches: Iterable[Batch]) -> Gradients:
    """Mean gradients and their mean squares, in one pass.

    Args:
        model: In evaluation mode; left without gradients.
        batches: Mixtures (1, T) and their sources (1, S, T).
    """
    named = dict(model.named_parameters())
    device = next(iter(named.values())).device
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    square = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    count = 0
    with recurrent_gradients(model):
        for mixture, sources in batches:
            model.zero_grad(set_to_none=True)
            pit_neg_si_sdr(model(mixture.to(device)), sources.to(device)).backward()
            count += 1
            for name, parameter in named.items():
                if parameter.grad is not None:
                    total[name] += parameter.grad
                    square[name] += parameter.grad.square()
    model.zero_grad(set_to_none=True)
    return Gradients(
        {name: value / count for name, value in total.items()},
        {name: value / count for name, value in square.items()},
    )
