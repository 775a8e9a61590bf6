"""Linear layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, GatedCall, LayerRule, Side, masked
from .reading import read_linear
from .regression import LinearRegression, Regression

__all__ = ["LinearRule"]


class LinearRule(LayerRule):
    """``nn.Linear``: features on the last axis, weight (out, in)."""

    kind = "linear"

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.LINEAR]

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def sides(self, module: Any) -> dict[str, tuple[Side, ...]]:
        return {"weight": ("out", "in"), "bias": ("out",)}

    def mixes(self, module: Any) -> bool:
        return True

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        weight: Tensor = module.weight
        mask = call.mask_in
        if mask is not None and mask.dim() == 1 and mask.requires_grad and not weight.requires_grad:
            return read_linear(module, call.input(), mask)
        return super().run_gated(module, call)

    def gated_parameters(self, module: Any, mask_in: Tensor) -> dict[str, Tensor]:
        weight: Tensor = module.weight
        return {"weight": masked(weight, mask_in, 1)}

    def regression(self, module: Any) -> Regression | None:
        return LinearRegression(module) if "weight" in module._parameters else None

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out * positions

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out + n_out if module.bias is not None else n_in * n_out
