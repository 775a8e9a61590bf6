"""The dense shape of a pruned model again, the dense model's weights around what was kept."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor, nn

from sepprune_tp._unwrap import unwrapped
from sepprune_tp.checkpoint import load_pruned
from sepprune_tp.checkpoint.history import HOW, past_of
from sepprune_tp.checkpoint.structure import named_tensors
from sepprune_tp.errors import CheckpointError
from sepprune_tp.graph.lineage import Lineage, set_lineage
from sepprune_tp.identity import fingerprint

__all__ = ["restore_dense"]


@torch.no_grad()
def restore_dense(
    pruned: nn.Module | str | os.PathLike[str],
    dense: nn.Module | str | os.PathLike[str],
    closed: bool = False,
) -> nn.Module:
    """Give a pruned model the shape of the dense one again.

    The channels that were kept hold the weights of the pruned model as it is now, trained or
    reconstructed or not. The others hold those of the dense model, so that the result computes
    something between the two: of a model that was cut and not changed since, the dense model, bit
    for bit. With ``closed`` they hold zeros, so that nobody reads them, and the result computes
    what the pruned model computes up to rounding, except where norms pool over channels
    (``history(pruned).pooling`` names them): those count the closed channels as zeros.

    Args:
        pruned: The pruned model, or its file.
        dense: The model that it was pruned from, or where ``load_model`` finds it. It stays as it
            is.
        closed: Whether the removed channels are zeros rather than the dense model's.

    Returns:
        A copy of the dense model with these weights, in eval mode.

    Raises:
        CheckpointError: If nothing is known of the pruned model's past, or ``dense`` is not the
            model that it was pruned from.
    """
    small = load_pruned(pruned) if not isinstance(pruned, nn.Module) else unwrapped(pruned)
    lineage = past_of(pruned if not isinstance(pruned, nn.Module) else small)
    lineage.check(small)
    if lineage.lost:
        raise CheckpointError(f"The dense shape cannot be restored: {lineage.lost}. {HOW}")
    whole = copy.deepcopy(_dense(dense)).eval()
    set_lineage(whole, None)
    _check_dense(whole, lineage)
    targets = dict(named_tensors(whole))
    if closed:
        for held in lineage.tensors.values():
            targets[held.source].zero_()
    known = {id(t): lineage.tensors[n] for n, t in named_tensors(small) if n in lineage.tensors}
    for name, tensor in named_tensors(small):
        found = lineage.tensors.get(name) or known.get(id(tensor))  # a tied one: under any name
        target = targets[name if found is None or name in targets else found.source]
        whole_axes: list[list[int] | None] = [None] * target.dim()
        axes = whole_axes if found is None else found.axes
        _put(target, axes, tensor, name)
    return whole


def _put(target: Tensor, axes: list[list[int] | None], tensor: Tensor, name: str) -> None:
    """Write a tensor to the grid of a larger one that it came from."""
    lines = [
        torch.arange(size) if axis is None else torch.tensor(axis, dtype=torch.long)
        for axis, size in zip(axes, target.shape, strict=True)
    ]
    if tuple(map(len, lines)) != tuple(tensor.shape):
        raise CheckpointError(
            f"'{name}' has the shape {tuple(tensor.shape)}, but its history tells of "
            f"{tuple(map(len, lines))}: the model was changed by something else. {HOW}"
        )
    value = tensor.to(target.device, target.dtype)
    if not lines:
        target.copy_(value)
        return
    grid = torch.meshgrid(*[line.to(target.device) for line in lines], indexing="ij")
    target[grid] = value


def _dense(dense: nn.Module | str | os.PathLike[str]) -> nn.Module:
    if isinstance(dense, nn.Module):
        return unwrapped(dense)
    from sepprune_tp.loading import load_model

    return load_model(dense)


def _check_dense(dense: nn.Module, lineage: Lineage) -> None:
    found = fingerprint(dense)
    if found == lineage.dense["sha256"]:
        return
    params = sum(p.numel() for p in dense.parameters())
    raise CheckpointError(
        f"This is not the model that was pruned: its weights have the SHA-256 {found[:16]}..., "
        f"those of the one that was pruned {lineage.dense['sha256'][:16]}... "
        f"({type(dense).__qualname__} with {params:,} parameters; it was a "
        f"{lineage.dense['class']} with {lineage.dense['params']:,}). Give the file that was given "
        "to prune, in the same precision."
    )
