"""Recalibration: make the statistics of a pruned model's norms fit it again, without training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import eval_mode
from .._unwrap import unwrapped
from ..errors import InputError
from ..graph.kept import KeptChannels
from ..graph.lineage import note
from .lockstep import Lockstep, Refitted, mixtures_of

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    dense: nn.Module | None = None,
    kept: KeptChannels | None = None,
    *,
    samples: int = 16384,
    seed: int = 0,
) -> list[Refitted]:
    """Estimate the running statistics of batch norms anew; with ``dense``, match all norms to it.

    Removing channels shifts what the layers behind them give. Batch norms get the mean and variance
    that their inputs have now. With the dense model, every norm with a gain and a bias (global,
    channel-wise, batch...) gets those that give each channel the mean and standard deviation that
    it has in the dense model, one norm after the other.

    Args:
        model: The pruned model; changed in place, its mode left as it is.
        batches: Of mixtures (B, T), or of (mixture, sources); training data.
        dense: The model that it was pruned from.
        kept: What followed it while it was cut; needed with ``dense``.
        samples: Positions that a norm is matched on.
        seed: Of the positions.

    Returns:
        The norms that were matched to the dense model, in order of execution.

    Raises:
        InputError: If there are no batches, ``kept`` is missing, or does not belong to the models.
    """
    if (dense is None) != (kept is None):
        raise InputError("recalibrate needs both dense= and kept=KeptChannels(...), or neither.")
    given = list(batches)
    mixture = mixtures_of(given, model)
    _estimate(unwrapped(model), given)
    note(unwrapped(model), "recalibrated", mixtures=len(mixture))
    if dense is None or kept is None:
        return []
    lockstep = Lockstep(model, dense, kept, ("norm",), samples, seed)
    return lockstep.refit_in_order(mixture, _moments)


def _estimate(model: nn.Module, batches: list[Any]) -> None:
    """Average the statistics of every batch, in place of the running ones."""
    norms: list[Any] = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average
                norm.training = True
            for batch in batches:
                model(mixtures_of([batch], model))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def _moments(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gain and bias that give x the mean and deviation of y; x and y (C, n, 1)."""
    x, y = x.double(), y.double()
    if bias is None:
        scale = (y.square().mean(1) / x.square().mean(1)).sqrt()[..., None]
    else:
        scale = (y.std(1) / x.std(1))[..., None]
    gain = torch.where(scale.isfinite(), scale, weight.abs()) * weight.sign()
    return gain, None if bias is None else (y.mean(1) - gain[:, 0] * x.mean(1))
