"""Linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, LayerRule, masked
from .reading import read_linear

__all__ = ["LinearRule"]


class LinearRule(LayerRule):
    """``nn.Linear``: features on the last axis, weight (out, in)."""

    kind = "linear"

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.LINEAR]

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def run_gated(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        mask_in: Tensor | None,
        mask_out: Tensor | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if mask_in is not None and mask_in.requires_grad and not module.weight.requires_grad:  # type: ignore[union-attr]
            return read_linear(module, args[0] if args else kwargs["input"], mask_in)
        return super().run_gated(module, forward, mask_in, mask_out, args, kwargs)

    def gated_parameters(self, module: nn.Module, mask_in: Tensor) -> dict[str, Tensor]:
        weight: Tensor = module.weight  # type: ignore[assignment]
        return {"weight": masked(weight, mask_in, 1)}

    def macs(self, module: nn.Module, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out * positions

    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        return n_in * n_out + n_out if module.bias is not None else n_in * n_out
