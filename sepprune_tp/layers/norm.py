"""Normalisations and activations with a parameter per channel: all keep channels apart.

Batch and instance norm take statistics of each channel alone; layer and group norm pool them over
channels, where a closed channel must not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import (
    BasePruningFunc,
    GroupNormPruner,
    InstanceNormPruner,
    PrunerBox,
)

from .base import Count, GatedCall, LayerRule, Side
from .pooling import pooled_frame_norm, pooled_group_norm, pooled_rms_norm
from .regression import AffineRegression, Regression

__all__ = [
    "BatchNormRule",
    "GroupNormRule",
    "InstanceNormRule",
    "LayerNormRule",
    "PReLURule",
    "RMSNormRule",
]


class ChannelwiseRule(LayerRule):
    """A layer that treats each channel (axis 1) apart and may hold parameters of each."""

    kind = "norm"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    optype: ClassVar[Any]
    affine: ClassVar[tuple[str, str]] = ("weight", "bias")
    """Names of the gain and the bias of each channel."""

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[self.optype]

    def axis(self, module: Any, tensor: Tensor) -> int:
        return 1

    def sides(self, module: Any) -> dict[str, tuple[Side, ...]]:
        return {name: ("out",) for name, _ in module.named_parameters()}

    def regression(self, module: Any) -> Regression | None:
        gain, bias = self.affine
        if self.kind != "norm" or module._parameters.get(gain) is None:
            return None
        return AffineRegression(module, lambda tensor: self.axis(module, tensor), gain, bias)

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * sum(1 for _ in module.parameters())


class BatchNormRule(ChannelwiseRule):
    """``nn.BatchNorm1d/2d/3d`` and subclasses."""

    optype = ops.OPTYPE.BN


class TrackingInstanceNormPruner(InstanceNormPruner):
    """Cuts an instance norm with its running statistics, which torch-pruning leaves."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        keep = sorted(set(range(layer.num_features)) - set(idxs))
        for name in ("running_mean", "running_var"):
            statistic = getattr(layer, name)
            if statistic is not None:
                setattr(layer, name, statistic[keep])
        return super().prune_out_channels(layer, idxs)

    prune_in_channels = prune_out_channels


class InstanceNormRule(ChannelwiseRule):
    """``nn.InstanceNorm1d/2d/3d``."""

    optype = ops.OPTYPE.IN
    _pruner = TrackingInstanceNormPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner


class PReLURule(ChannelwiseRule):
    """``nn.PReLU`` with one slope a channel."""

    kind = "activation"
    optype = ops.OPTYPE.PRELU

    def n_in(self, module: Any) -> int:
        return int(module.num_parameters)  # torch-pruning says None when one channel is left

    n_out = n_in


class SingleGroupNormPruner(GroupNormPruner):
    """Cuts a group norm with one channel a group: a group goes with its channel."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        layer = super().prune_out_channels(layer, list(idxs))
        layer.num_groups = layer.num_channels
        return layer

    prune_in_channels = prune_out_channels

    def get_in_channel_groups(self, layer: Any) -> int:
        """1: channels are free."""
        return 1

    get_out_channel_groups = get_in_channel_groups


def _one_each(module: Any) -> bool:
    """Whether every group of a group norm is one channel, of several."""
    return bool(1 < module.num_groups == module.num_channels)


class GroupNormRule(ChannelwiseRule):
    """``nn.GroupNorm``: its groups must keep equal sizes."""

    optype = ops.OPTYPE.GN
    _single = SingleGroupNormPruner()

    def pools_channels(self, module: Any) -> bool:
        return bool(module.num_groups < module.num_channels)

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._single if _one_each(module) else PrunerBox[self.optype]

    def ties(self, module: Any) -> tuple[int, int]:
        parts = 1 if _one_each(module) else int(module.num_groups)
        return parts, parts

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        return pooled_group_norm(
            call.input().contiguous(),  # so is what torch's own norms give
            call.mask_in,
            module.weight,
            module.bias,
            module.eps,
            module.num_groups,
        )


class _LastAxisNormPruner(BasePruningFunc):
    """Cuts a norm over the last axis; torch-pruning's own may put channels into another order."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove channels ``idxs``."""
        keep = sorted(set(range(layer.normalized_shape[-1])) - set(idxs))
        for name in ("weight", "bias"):
            if layer._parameters.get(name) is not None:
                setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), keep, 0))
        layer.normalized_shape = (len(keep),)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Channels."""
        return int(layer.normalized_shape[-1])

    get_in_channels = get_out_channels


class LayerNormRule(ChannelwiseRule):
    """``nn.LayerNorm`` over the last axis."""

    optype = ops.OPTYPE.LN
    _pruner = _LastAxisNormPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

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
        x = call.input().contiguous()
        return pooled_frame_norm(
            x, call.mask_in, module.weight, module.bias, module.eps, x.dim() - 1
        )


class RMSNormRule(LayerNormRule):
    """``nn.RMSNorm`` over the last axis."""

    def regression(self, module: Any) -> Regression | None:
        return None

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        if call.mask_in is None:
            return call.plain()
        x = call.input("x").contiguous()
        return pooled_rms_norm(x, call.mask_in, module.weight, module.eps, x.dim() - 1)
