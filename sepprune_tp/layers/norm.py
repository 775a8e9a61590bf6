"""Normalisations and activations with a parameter per channel: all keep channels apart.

Batch and instance norm take statistics of each channel alone; layer and group norm pool them over
channels, where a closed channel must not count.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, GatedCall, LayerRule
from .pooling import pooled_frame_norm, pooled_group_norm

__all__ = ["BatchNormRule", "GroupNormRule", "InstanceNormRule", "LayerNormRule", "PReLURule"]


class ChannelwiseRule(LayerRule):
    """A layer that treats each channel (axis 1) apart and may hold parameters of each."""

    kind = "norm"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    optype: ClassVar[Any]

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[self.optype]

    def axis(self, module: Any, tensor: Tensor) -> int:
        return 1

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * sum(1 for _ in module.parameters())


class BatchNormRule(ChannelwiseRule):
    """``nn.BatchNorm1d/2d/3d`` and subclasses."""

    optype = ops.OPTYPE.BN


class InstanceNormRule(ChannelwiseRule):
    """``nn.InstanceNorm1d/2d/3d``."""

    optype = ops.OPTYPE.IN

    def refuses(self, module: Any) -> str | None:
        if module.track_running_stats:
            return "an instance norm with running statistics, which torch-pruning does not cut"
        return None


class PReLURule(ChannelwiseRule):
    """``nn.PReLU`` with one slope a channel."""

    kind = "activation"
    optype = ops.OPTYPE.PRELU

    def n_in(self, module: Any) -> int:
        return int(module.num_parameters)  # torch-pruning says None when one channel is left

    n_out = n_in


class GroupNormRule(ChannelwiseRule):
    """``nn.GroupNorm``: its groups must keep equal sizes."""

    optype = ops.OPTYPE.GN

    def pools_channels(self, module: Any) -> bool:
        return bool(module.num_groups < module.num_channels)

    def refuses(self, module: Any) -> str | None:
        if 1 < module.num_groups == module.num_channels:
            return "a group norm with one channel a group: removing one would regroup the others"
        return None

    def ties(self, module: Any) -> tuple[int, int]:
        return int(module.num_groups), int(module.num_groups)

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        return pooled_group_norm(
            call.input(),
            call.mask_in,
            module.weight,
            module.bias,
            module.eps,
            module.num_groups,
        )


class LayerNormRule(ChannelwiseRule):
    """``nn.LayerNorm`` over the last axis."""

    optype = ops.OPTYPE.LN

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def refuses(self, module: Any) -> str | None:
        if len(module.normalized_shape) > 1:
            return f"a layer norm over several axes at once, {tuple(module.normalized_shape)}"
        return None

    def n_in(self, module: Any) -> int:
        return int(module.normalized_shape[-1])

    n_out = n_in

    def pools_channels(self, module: Any) -> bool:
        return True

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        x = call.input()
        return pooled_frame_norm(
            x, call.mask_in, module.weight, module.bias, module.eps, x.dim() - 1
        )
