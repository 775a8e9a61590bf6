"""Convolutions: plain, grouped, depthwise and transposed, in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, LayerRule, masked
from .reading import can_read_convolution, read_convolution

__all__ = ["ConvRule", "DepthwiseConvRule"]


class _AnyConvRule(LayerRule):
    """What all convolutions share: weight (out, in / groups, *kernel), or in first if transposed."""

    kind = "conv"

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return tensor.dim() - 1 - len(module.kernel_size)  # type: ignore[arg-type]

    def positions(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
        tensor = inputs[0] if module.transposed else output
        return int(tensor.numel() // tensor.shape[self.axis(module, tensor)])

    def _kernel(self, module: nn.Module) -> int:
        return math.prod(module.kernel_size)  # type: ignore[arg-type]


class ConvRule(_AnyConvRule):
    """A convolution that mixes its input channels (within each of its groups)."""

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.CONV]

    def refuses(self, module: nn.Module) -> str | None:
        groups: int = module.groups  # type: ignore[assignment]
        if groups > 1 and (module.in_channels == groups or module.out_channels == groups):
            return (
                f"a grouped convolution with {groups} groups, {module.in_channels} inputs and "
                f"{module.out_channels} outputs has one channel a group on one side only"
            )
        if groups > 1 and module.transposed:  # its weight is (in, out / groups): tp slices it wrong
            return f"a transposed convolution with {groups} groups, which torch-pruning cannot cut"
        return None

    def ties(self, module: nn.Module) -> tuple[int, int]:
        groups = int(module.groups)  # type: ignore[arg-type]
        return groups, groups

    def run_gated(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        mask_in: Tensor | None,
        mask_out: Tensor | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        x = args[0] if args else kwargs["input"]
        batched = x.dim() == 2 + len(module.kernel_size)  # type: ignore[arg-type]
        if mask_in is not None and batched and can_read_convolution(module, mask_in):
            return read_convolution(module, x, mask_in)
        return super().run_gated(module, forward, mask_in, mask_out, args, kwargs)

    def gated_parameters(self, module: nn.Module, mask_in: Tensor) -> dict[str, Tensor]:
        weight: Tensor = module.weight  # type: ignore[assignment]
        groups: int = module.groups  # type: ignore[assignment]
        if module.transposed:
            return {"weight": masked(weight, mask_in, 0)}
        if groups > 1:  # tied: the mask is the same in every group
            mask_in = mask_in[: weight.shape[1]]
        return {"weight": masked(weight, mask_in, 1)}

    def macs(self, module: nn.Module, positions: int, n_in: Count, n_out: Count) -> Count:
        groups: int = module.groups  # type: ignore[assignment]
        product = n_in * n_out * (positions * self._kernel(module))
        return product // groups if isinstance(product, int) else product / groups

    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        groups: int = module.groups  # type: ignore[assignment]
        weights = n_in * n_out * self._kernel(module)
        weights = weights // groups if isinstance(weights, int) else weights / groups
        return weights + n_out if module.bias is not None else weights


class DepthwiseConvRule(_AnyConvRule):
    """A convolution of each channel with itself alone."""

    relation: ClassVar[Literal["maps", "through"]] = "through"

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.DEPTHWISE_CONV]

    def macs(self, module: nn.Module, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_out * (positions * self._kernel(module))

    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        return n_out * (self._kernel(module) + (module.bias is not None))
