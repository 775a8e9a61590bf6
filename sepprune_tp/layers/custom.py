"""Layers that a user gave torch-pruning's pruning functions for (``customized_pruners``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from .base import Count, LayerRule

__all__ = ["CustomRule", "custom_rules"]


class CustomRule(LayerRule):
    """A layer that is known by its pruning functions only: the graph cuts it, no gate reaches in.

    As in torch-pruning, a pruner whose two functions are one keeps each channel apart, any other
    makes new channels of all inputs. Channels lie on axis 1 of maps (B, C, *) and on the last axis
    of anything that has the right size there instead.
    """

    kind = "custom"

    def __init__(self, pruner: BasePruningFunc) -> None:
        self._pruner = pruner
        one = type(pruner).prune_in_channels is type(pruner).prune_out_channels
        self.relation = "through" if one else "maps"  # type: ignore[misc]

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        last = tensor.dim() - 1
        if last < 2:
            return last
        try:
            sizes = {self.n_in(module), self.n_out(module)}
        except (AttributeError, TypeError, NotImplementedError):  # a pruner that does not count
            return 1
        on_last = tensor.size(1) not in sizes and tensor.size(last) in sizes
        return last if on_last else 1

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * 0 + sum(int(p.numel()) for p in module.parameters())


def custom_rules(
    model: nn.Module, pruners: Mapping[Any, BasePruningFunc], known: Any
) -> dict[nn.Module, LayerRule]:
    """Rules of the layers that only a user's pruner knows.

    Args:
        model: The model.
        pruners: Pruning functions by layer type or instance.
        known: Returns the rule of a module that has one; such a layer keeps it.
    """
    found: dict[nn.Module, LayerRule] = {}
    for module in model.modules():
        pruner = pruners.get(module, pruners.get(type(module)))
        if pruner is not None and known(module) is None:
            found[module] = CustomRule(pruner)
    return found
