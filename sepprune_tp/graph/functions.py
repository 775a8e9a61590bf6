"""torch-pruning's functions of one layer, as this graph hands them out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc

from ..layers import LayerRule
from .assembly import ChannelSet, Owner

__all__ = ["TiedPruner", "complete_gradients", "passes_filter"]


class TiedPruner:
    """Pruning functions of one layer that report the ties of this model instead of the type's."""

    def __init__(self, pruner: BasePruningFunc, parts: int) -> None:
        self._pruner, self._parts = pruner, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pruner, name)

    @property
    def pruning_dim(self) -> int:
        """The axis of a bare parameter that is cut."""
        return int(self._pruner.pruning_dim)

    @pruning_dim.setter
    def pruning_dim(self, dim: int) -> None:
        self._pruner.pruning_dim = dim

    def get_out_channel_groups(self, layer: nn.Module) -> int:
        """Equal parts of the outputs that shrink alike."""
        return self._parts

    def get_in_channel_groups(self, layer: nn.Module) -> int:
        """1: ties of inputs are those of the layer that makes them."""
        return 1


def passes_filter(owner: Owner, rule: LayerRule | None, types: tuple[type, ...]) -> bool:
    """Whether torch-pruning's filter of root types lets a layer be the root of a group."""
    if isinstance(owner, types):
        return True
    kind = "parameter" if rule is None else rule.kind
    if kind in ("rnn", "embedding", "weight", "parameter", "buffer"):
        return nn.LSTM in types or nn.Linear in types
    return kind == "filterbank" and ops.TORCH_CONV in types


def complete_gradients(channel_set: ChannelSet) -> None:
    """Give zero gradients to layers of a group that the loss does not reach.

    torch-pruning's Taylor and Hessian criteria read every gradient; the layer that
    feeds the residual stream of the last block never gets one where only skip outputs are used.
    """
    for site in channel_set.sites:
        tensors = [site.owner] if isinstance(site.owner, nn.Parameter) else site.owner.parameters()
        for parameter in tensors:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
