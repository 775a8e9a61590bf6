"""Normalisations and activations with a parameter per channel: all keep channels apart.

Batch and instance norm take statistics of each channel alone; layer and group norm pool them over
channels, where a closed channel must not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, LayerRule
from .pooling import pooled_frame_norm, pooled_group_norm

__all__ = ["BatchNormRule", "GroupNormRule", "InstanceNormRule", "LayerNormRule", "PReLURule"]


class ChannelwiseRule(LayerRule):
    """A layer that treats each channel (axis 1) apart and may hold parameters of each."""

    kind = "norm"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    optype: ClassVar[Any]

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return PrunerBox[self.optype]

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return 1

    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        return n_out * sum(1 for _ in module.parameters())


class BatchNormRule(ChannelwiseRule):
    """``nn.BatchNorm1d/2d/3d`` and subclasses."""

    optype = ops.OPTYPE.BN


class InstanceNormRule(ChannelwiseRule):
    """``nn.InstanceNorm1d/2d/3d``."""

    optype = ops.OPTYPE.IN

    def refuses(self, module: nn.Module) -> str | None:
        if module.track_running_stats:
            return "an instance norm with running statistics, which torch-pruning does not cut"
        return None


class PReLURule(ChannelwiseRule):
    """``nn.PReLU`` with one slope a channel."""

    kind = "activation"
    optype = ops.OPTYPE.PRELU


class GroupNormRule(ChannelwiseRule):
    """``nn.GroupNorm``: its groups must keep equal sizes."""

    optype = ops.OPTYPE.GN

    def pools_channels(self, module: nn.Module) -> bool:
        return bool(module.num_groups < module.num_channels)  # type: ignore[operator]

    def refuses(self, module: nn.Module) -> str | None:
        if 1 < module.num_groups == module.num_channels:  # type: ignore[operator]
            return "a group norm with one channel a group: removing one would regroup the others"
        return None

    def ties(self, module: nn.Module) -> tuple[int, int]:
        return int(module.num_groups), int(module.num_groups)  # type: ignore[arg-type]

    def run_gated(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        mask_in: Tensor | None,
        mask_out: Tensor | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if mask_in is None:
            return forward(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        return pooled_group_norm(
            x, mask_in, module.weight, module.bias, module.eps, module.num_groups  # type: ignore[arg-type]
        )


class LayerNormRule(ChannelwiseRule):
    """``nn.LayerNorm`` over the last axis."""

    optype = ops.OPTYPE.LN

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def refuses(self, module: nn.Module) -> str | None:
        if len(module.normalized_shape) > 1:  # type: ignore[arg-type]
            return f"a layer norm over several axes at once, {tuple(module.normalized_shape)}"  # type: ignore[arg-type]
        return None

    def n_in(self, module: nn.Module) -> int:
        return int(module.normalized_shape[-1])  # type: ignore[index]

    n_out = n_in

    def pools_channels(self, module: nn.Module) -> bool:
        return True

    def run_gated(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        mask_in: Tensor | None,
        mask_out: Tensor | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if mask_in is None:
            return forward(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        return pooled_frame_norm(x, mask_in, module.weight, module.bias, module.eps, x.dim() - 1)  # type: ignore[arg-type]
