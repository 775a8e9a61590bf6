"""Convolutions: plain, grouped, depthwise and transposed, in one, two or three dimensions."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, GatedCall, LayerRule, masked
from .reading import can_read_convolution, read_convolution

__all__ = ["ConvRule", "DepthwiseConvRule"]


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

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.CONV]

    def refuses(self, module: Any) -> str | None:
        groups = int(module.groups)
        if groups > 1 and (module.in_channels == groups or module.out_channels == groups):
            return (
                f"a grouped convolution with {groups} groups, {module.in_channels} inputs and "
                f"{module.out_channels} outputs has one channel a group on one side only"
            )
        if groups > 1 and module.transposed:  # its weight is (in, out / groups): tp slices it wrong
            return f"a transposed convolution with {groups} groups, which torch-pruning cannot cut"
        return None

    def ties(self, module: Any) -> tuple[int, int]:
        groups = int(module.groups)
        return groups, groups

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

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_out * (positions * self._kernel(module))

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * (self._kernel(module) + (module.bias is not None))
