"""Least-squares reconstruction: give a pruned model the weights that its channels deserve.

When channels go, the layers that read them lose part of their input. The weights that make the rest
of the input give what the dense layer gave are the solution of a linear least-squares problem, on a
few batches, without training. The kept channels carry much of what the removed ones did.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._unwrap import unwrapped
from ..errors import InputError
from ..graph import ChannelGraph
from ..graph.kept import KeptChannels
from ..graph.lineage import note
from .lockstep import Lockstep, Refitted, mixtures_of

__all__ = ["PARTS", "reconstruct", "ridge_solution", "step_and_reconstruct"]

PARTS = ("mixing", "depthwise", "norm")
INPUTS = ("pruned", "dense")
_PIECE = 4096  # rows


@torch.no_grad()
def reconstruct(
    pruned: nn.Module,
    dense: nn.Module,
    batches: Iterable[Any],
    kept: KeptChannels,
    *,
    inputs: str = "pruned",
    parts: Iterable[str] = ("mixing",),
    ridge: float = 3e-2,
    samples: int = 1 << 17,
    seed: int = 0,
) -> list[Refitted]:
    """Choose weights for the kept channels so that layers give what the dense layers gave.

    For each layer with features X (what its weights meet), weights W and the dense layer's outputs
    Y on the channels that both have, the new weights are

        W + argmin_D |Y - X (W + D) - b|² + ridge * s * |D|²,  s: mean energy of a feature,

    so that a layer that lost nothing keeps its weights, and no layer's error grows on the batches.
    The bias b, where there is one, is fitted without a penalty.

    Args:
        pruned: The pruned model; its weights are changed in place.
        dense: The model that it was pruned from.
        batches: Of mixtures (B, T), or of (mixture, sources), all of one length; taken together.
            Not those that anything is evaluated on.
        kept: What followed the model while it was cut.
        inputs: ``"pruned"``: X is what the layer gets in the pruned model, all layers before it
            reconstructed, so that it makes up for their errors too. ``"dense"``: X is the kept
            part of what the dense layer gets; only layers that lost inputs change.
        parts: Which layers change: ``"mixing"`` (they read several channels: convolutions, linear,
            recurrent, projections of attention), ``"depthwise"``, ``"norm"`` (gain and bias).
        ridge: Above 0; larger keeps the weights closer to what they were.
        samples: Positions (of batch and time) of each call that a layer is fitted on, all or drawn
            at random. More is better, and takes longer; a layer's features are held at once.
        seed: Of the positions.

    Returns:
        The layers that changed, in the order of execution.

    Raises:
        InputError: If an argument is wrong, there are no batches, or ``kept`` does not belong to
            the two models.

    Source:
        He et al., "Channel pruning for accelerating very deep neural networks", ICCV 2017,
        equation 3 with the channels given (``inputs="pruned"``: their whole-model pruning, section
        3.2); Luo et al., "ThiNet", ICCV 2017, equation 7.
    """
    if inputs not in INPUTS:
        raise InputError(f"inputs is {inputs!r}; it is one of {', '.join(INPUTS)}.")
    chosen = tuple(parts)
    if unknown := sorted(set(chosen) - set(PARTS)):
        raise InputError(f"Unknown parts {', '.join(unknown)}; they are {', '.join(PARTS)}.")
    if ridge <= 0 or samples < 1:
        raise InputError(f"ridge and samples must be above 0, got {ridge=}, {samples=}.")

    def solve(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return ridge_solution(x, y, weight, bias, ridge)

    mixture = mixtures_of(batches, pruned)
    lockstep = Lockstep(pruned, dense, kept, chosen, samples, seed)
    refit = lockstep.refit_apart if inputs == "dense" else lockstep.refit_in_order
    done = refit(mixture, solve)
    note(unwrapped(pruned), "reconstructed", layers=len(done), mixtures=len(mixture))
    return done


def step_and_reconstruct(pruner: Any, batches: Iterable[Any], **options: Any) -> list[Refitted]:
    """Let a pruner take its step, and reconstruct what it leaves.

    Args:
        pruner: A :class:`SepPrunePruner`, or a pruner of torch-pruning's on the channel graph, with
            any importance.
        batches: As for :func:`reconstruct`, like everything in ``options``.
        **options: Of :func:`reconstruct`.

    Returns:
        The layers that changed.

    Raises:
        InputError: If the pruner uses torch-pruning's own graph, which does not tell what it cuts;
            and as :func:`reconstruct`.
    """
    if not isinstance(pruner.DG, ChannelGraph):
        raise InputError(
            f"{type(pruner).__name__} cuts on torch-pruning's own graph, which does not tell what "
            "it cuts. Use SepPrunePruner, or build the pruner inside `with channel_graph():`."
        )
    dense, kept = copy.deepcopy(pruner.model), KeptChannels(pruner.model)
    pruner.step()
    return reconstruct(pruner.model, dense, batches, kept, **options)


def ridge_solution(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, ridge: float
) -> tuple[Tensor, Tensor | None]:
    """Weights nearest to ``weight`` that bring ``x @ weight.T + bias`` to ``y``.

    Args:
        x: Features, (G, n, F).
        y: Targets, (G, n, O).
        weight: (G, O, F).
        bias: (G, O), or None: there is none.
        ridge: Penalty on the change, relative to the mean energy of a feature.

    Returns:
        Weight and bias in float64; the change of the weight is penalised, that of the bias not.
    """
    rest = y - x @ weight.transpose(1, 2)
    mean_x = mean_rest = x.new_zeros(())
    if bias is not None:
        mean_x, mean_rest = x.mean(1, keepdim=True), rest.mean(1, keepdim=True)
    energy, product = _products(x, rest, mean_x, mean_rest)
    scale = energy.diagonal(dim1=1, dim2=2).mean(1)
    penalty = (ridge * scale).clamp(min=torch.finfo(torch.float64).tiny)
    energy.diagonal(dim1=1, dim2=2).add_(penalty[:, None])
    change = torch.linalg.solve(energy, product).transpose(1, 2)
    if bias is None:
        return weight.double() + change, None
    offset = mean_rest.double() - mean_x.double() @ change.transpose(1, 2)
    return weight.double() + change, offset[:, 0]


def _products(x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of x with itself and with y, less their means.

    They are summed in float64 over pieces of the rows; a copy of all rows would not fit.
    """
    energy = x.new_zeros(x.shape[0], x.shape[2], x.shape[2], dtype=torch.float64)
    product = x.new_zeros(x.shape[0], x.shape[2], y.shape[2], dtype=torch.float64)
    for piece, other in zip(x.split(_PIECE, 1), y.split(_PIECE, 1), strict=True):
        some, other = piece - mean_x, other - mean_y
        turned = some.transpose(1, 2)
        energy += turned @ some
        product += turned @ other
    return energy, product
