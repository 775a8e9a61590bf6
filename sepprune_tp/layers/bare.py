"""Parameters and buffers outside of known layers, as layers: cut with the channels that they meet.

A model may hold a gain, a position table or a whole weight matrix without a layer around it. A
:class:`BareAxis` stands for one axis of such a tensor whose entries belong to channels; a
:class:`BareWeight` for a tensor that reads channels along one axis and makes others along another.
Both own nothing: they find the tensor in its module each time, so they hold for copies too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from .base import Count, LayerRule, Side
from .unit_weights import LinearView, row_view

__all__ = ["BareAxis", "BareAxisRule", "BareTensor", "BareWeight", "BareWeightRule"]


class BareTensor(nn.Module):
    """Stands for a parameter or buffer of a module.

    Attributes:
        host: The module that holds it.
        key: Its name there.
    """

    def __init__(self, host: nn.Module, key: str) -> None:
        super().__init__()
        self._host = (host,)  # in a tuple: it is no submodule
        self.key = key

    @property
    def host(self) -> nn.Module:
        """The module that holds the tensor."""
        return self._host[0]

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer."""
        found: Tensor | None = self.host._parameters.get(self.key)
        if found is None:
            found = self.host._buffers[self.key]
        assert found is not None, "a traced tensor stays where it was"
        return found

    def of(self, host: nn.Module) -> BareTensor:
        """The stand-in for the same tensor of a copy of the module."""
        raise NotImplementedError

    def left(self, side: str, removed: Sequence[int]) -> tuple[int, list[int]]:
        """The axis that loses entries when channels of a side go, and the entries that stay."""
        raise NotImplementedError

    def cut(self, side: str, removed: Sequence[int]) -> None:
        """Remove the entries of some channels of a side."""
        axis, keep = self.left(side, removed)
        tensor = self.tensor
        index = torch.tensor(keep, dtype=torch.long, device=tensor.device)
        if self.key in self.host._buffers:
            self.host._buffers[self.key] = tensor.index_select(axis, index)
            return
        made = nn.Parameter(
            tensor.detach().index_select(axis, index), requires_grad=tensor.requires_grad
        )
        if tensor.grad is not None:
            made.grad = tensor.grad.index_select(axis, index)
        self.host._parameters[self.key] = made


class BareAxis(BareTensor):
    """One axis of a tensor, an entry per channel.

    Attributes:
        dim: The axis.
    """

    def __init__(self, host: nn.Module, key: str, dim: int) -> None:
        super().__init__(host, key)
        self.dim = dim

    def of(self, host: nn.Module) -> BareAxis:
        """The same axis of a copy."""
        return BareAxis(host, self.key, self.dim)

    def left(self, side: str, removed: Sequence[int]) -> tuple[int, list[int]]:
        """The axis, and the entries that stay."""
        gone = set(removed)
        return self.dim, [i for i in range(self.tensor.shape[self.dim]) if i not in gone]


class BareWeight(BareTensor):
    """A weight without a layer: channels are read along one axis and made along another.

    Attributes:
        axis_in: The axis along which channels are read.
        axis_out: The axis along which channels are made.
        parts_in: How many equal parts of the inputs share that axis (groups of a convolution).
        parts_out: Likewise of the outputs.
    """

    def __init__(
        self,
        host: nn.Module,
        key: str,
        axis_in: int,
        axis_out: int,
        parts_in: int = 1,
        parts_out: int = 1,
    ) -> None:
        super().__init__(host, key)
        self.axis_in, self.axis_out = axis_in, axis_out
        self.parts_in, self.parts_out = parts_in, parts_out

    def of(self, host: nn.Module) -> BareWeight:
        """The same weight of a copy."""
        return BareWeight(
            host, self.key, self.axis_in, self.axis_out, self.parts_in, self.parts_out
        )

    def left(self, side: str, removed: Sequence[int]) -> tuple[int, list[int]]:
        """The axis of a side, and the entries that stay; equal parts lose the same ones."""
        axis = self.axis_in if side == "in" else self.axis_out
        size = self.tensor.shape[axis]
        gone = {i % size for i in removed}
        return axis, [i for i in range(size) if i not in gone]


class _BarePruner(BasePruningFunc):
    """Cuts the tensor that a stand-in stands for."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        layer.cut("out", idxs)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Entries along the axis."""
        return int(layer.tensor.shape[layer.dim])


class _AxisPruner(_BarePruner):
    prune_in_channels = _BarePruner.prune_out_channels
    get_in_channels = _BarePruner.get_out_channels


class _WeightPruner(_BarePruner):
    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs`` that are read."""
        layer.cut("in", idxs)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Channels that are made."""
        return int(layer.tensor.shape[layer.axis_out] * layer.parts_out)

    def get_in_channels(self, layer: Any) -> int:
        """Channels that are read."""
        return int(layer.tensor.shape[layer.axis_in] * layer.parts_in)


class BareAxisRule(LayerRule):
    """A gain or table keeps channels apart; a buffer costs nothing."""

    kind = "parameter"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    _pruner = _AxisPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        return int(module.dim)

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        return [row_view(module.tensor, module.dim, 1, module.tensor.grad)]

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        if module.key in module.host._buffers:
            return n_out * 0
        each: int = module.tensor.numel() // module.tensor.shape[module.dim]
        return n_out * each


class BareWeightRule(LayerRule):
    """A bare weight is linear in what it reads."""

    kind = "weight"
    _pruner = _WeightPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def ties(self, module: Any) -> tuple[int, int]:
        return module.parts_in, module.parts_out

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        axis = module.axis_in if side == "in" else module.axis_out
        parts = module.parts_in if side == "in" else module.parts_out
        return [row_view(module.tensor, axis, parts, module.tensor.grad)]

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return self._weights(module, n_in, n_out) * positions

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        if module.key in module.host._buffers:
            return n_out * 0
        return self._weights(module, n_in, n_out)

    def _weights(self, module: Any, n_in: Count, n_out: Count) -> Count:
        shape: torch.Size = module.tensor.shape
        rest: int = math.prod(shape) // (shape[module.axis_in] * shape[module.axis_out])
        parts: int = module.parts_in * module.parts_out
        product = n_in * n_out * rest
        return product // parts if isinstance(product, int) else product / parts
