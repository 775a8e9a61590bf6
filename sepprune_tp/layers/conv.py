"""Convolutions: plain, grouped, depthwise and transposed, in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, GatedCall, LayerRule, Side, masked
from .reading import can_read_convolution, read_convolution
from .regression import Regression
from .transposed_regression import convolution_regression
from .unit_weights import LinearView, row_view

__all__ = ["ConvRule", "DepthwiseConvRule", "GroupUnitConvRule"]


class GroupedTransposePruner(BasePruningFunc):
    """Cuts a transposed convolution with groups: weight (in, out / groups, *kernel)."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove outputs ``idxs``: the same ones of every group."""
        keep = _kept(layer.out_channels, idxs)
        first = [i for i in keep if i < layer.out_channels // layer.groups]
        layer.weight = self._prune_parameter_and_grad(layer.weight, first, 1)
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, keep, 0)
        layer.out_channels = len(keep)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove inputs ``idxs``: the same ones of every group."""
        keep = _kept(layer.in_channels, idxs)
        layer.weight = self._prune_parameter_and_grad(layer.weight, keep, 0)
        layer.in_channels = len(keep)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Output channels."""
        return int(layer.out_channels)

    def get_in_channels(self, layer: Any) -> int:
        """Input channels."""
        return int(layer.in_channels)


class GroupUnitPruner(BasePruningFunc):
    """Cuts whole groups of a convolution; its channels are its groups."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove groups ``idxs`` with their inputs and outputs."""
        keep = _kept(layer.groups, idxs)
        outputs = _members(keep, layer.out_channels // layer.groups)
        inputs = _members(keep, layer.in_channels // layer.groups)
        rows = inputs if layer.transposed else outputs
        layer.weight = self._prune_parameter_and_grad(layer.weight, rows, 0)
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, outputs, 0)
        layer.in_channels, layer.out_channels = len(inputs), len(outputs)
        layer.groups = len(keep)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Groups."""
        return int(layer.groups)

    get_in_channels = get_out_channels


def _kept(size: int, removed: Sequence[int]) -> list[int]:
    return sorted(set(range(size)) - set(removed))


def _members(groups: list[int], size: int) -> list[int]:
    return [group * size + member for group in groups for member in range(size)]


class _AnyConvRule(LayerRule):
    """What convolutions share: weight (out, in / groups, *kernel), or in first if transposed."""

    kind = "conv"

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1 - len(module.kernel_size)

    def positions(self, module: Any, inputs: tuple[Any, ...], output: Any) -> int:
        tensor = inputs[0] if module.transposed else output
        return int(tensor.numel() // tensor.shape[self.axis(module, tensor)])

    def _kernel(self, module: Any) -> int:
        return math.prod(module.kernel_size)


class ConvRule(_AnyConvRule):
    """A convolution that mixes its input channels (within each of its groups)."""

    _grouped_transpose = GroupedTransposePruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        if module.transposed and module.groups > 1:  # torch-pruning slices the wrong axis
            return self._grouped_transpose
        return PrunerBox[ops.OPTYPE.CONV]

    def sides(self, module: Any) -> dict[str, tuple[Side, ...]]:
        if module.groups > 1:
            return {}
        kernel = (None,) * len(module.kernel_size)
        first: tuple[Side, ...] = ("in", "out") if module.transposed else ("out", "in")
        return {"weight": (*first, *kernel), "bias": ("out",)}

    def ties(self, module: Any) -> tuple[int, int]:
        groups = int(module.groups)
        return groups, groups

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        if module.transposed and module.groups > 1:  # torch-pruning takes the wrong axis
            axis, parts = (0, 1) if side == "in" else (1, int(module.groups))
            return [row_view(module.weight, axis, parts, module.weight.grad)]
        return []

    def mixes(self, module: Any) -> bool:
        return bool(module.groups == 1)

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        x = call.input()
        batched = x.dim() == 2 + len(module.kernel_size)
        if call.mask_in is not None and batched and can_read_convolution(module, call.mask_in):
            return read_convolution(module, x, call.mask_in)
        return super().run_gated(module, call)

    def gated_parameters(self, module: Any, mask_in: Tensor) -> dict[str, Tensor]:
        weight: Tensor = module.weight
        groups = int(module.groups)
        if module.transposed:
            return {"weight": masked(weight, mask_in, 0)}
        if groups > 1:  # tied: the mask is the same in every group
            mask_in = mask_in[: weight.shape[1]]
        return {"weight": masked(weight, mask_in, 1)}

    def regression(self, module: Any) -> Regression | None:
        return convolution_regression(module)

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        groups = int(module.groups)
        product = n_in * n_out * (positions * self._kernel(module))
        return product // groups if isinstance(product, int) else product / groups

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        groups = int(module.groups)
        weights = n_in * n_out * self._kernel(module)
        weights = weights // groups if isinstance(weights, int) else weights / groups
        return weights + n_out if module.bias is not None else weights


class DepthwiseConvRule(_AnyConvRule):
    """A convolution of each channel with itself alone."""

    relation: ClassVar[Literal["maps", "through"]] = "through"

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.DEPTHWISE_CONV]

    def regression(self, module: Any) -> Regression | None:
        return convolution_regression(module)

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_out * (positions * self._kernel(module))

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * (self._kernel(module) + (module.bias is not None))

    def sides(self, module: Any) -> dict[str, tuple[Side, ...]]:
        return {"weight": ("out",) + (None,) * (module.weight.dim() - 1), "bias": ("out",)}


class GroupUnitConvRule(_AnyConvRule):
    """A convolution whose groups have one input or one output: a group stays or goes whole.

    Depthwise with a channel multiplier (groups = in, out = k * in) and its mirror image (groups =
    out, in = k * out).
    """

    relation: ClassVar[Literal["maps", "through"]] = "through"
    _pruner = GroupUnitPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        groups = int(module.groups)

        def by_group(tensor: Tensor) -> Tensor:
            return tensor.reshape(groups, -1)

        grad = None if module.weight.grad is None else by_group(module.weight.grad)
        return [row_view(by_group(module.weight), 0, 1, grad)]

    def units(self, module: Any) -> tuple[int, int]:
        return module.in_channels // module.groups, module.out_channels // module.groups

    def _weights(self, module: Any) -> int:
        inputs, outputs = self.units(module)
        return inputs * outputs * self._kernel(module)

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_out * (positions * self._weights(module))

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        bias = self.units(module)[1] if module.bias is not None else 0
        return n_out * (self._weights(module) + bias)
