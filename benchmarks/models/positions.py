"""Sinusoids that tell an attention layer where in time a frame is, for any number of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from sepprune_tp.layers import LayerRule, register_rule
from sepprune_tp.layers.base import Count

__all__ = ["PositionalEncoding"]


class PositionalEncoding(nn.Module):
    """Adds sin(frequency * frame + phase) to each channel; (B, T, C) -> (B, T, C).

    Channels come in pairs of a sine and a cosine (phase pi / 2), whose frequencies fall from 1 by
    powers of 10,000. Each channel keeps its own frequency when others are pruned, which is why
    frequency and phase are stored, and not computed from the number of channels.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        channel = torch.arange(channels)
        exponent = torch.div(channel, 2, rounding_mode="floor") * (2 / channels)
        self.register_buffer("frequency", torch.exp(-math.log(10_000) * exponent))
        self.register_buffer("phase", channel % 2 * (math.pi / 2))

    frequency: Tensor
    phase: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        frame = torch.arange(x.shape[1], device=x.device, dtype=self.frequency.dtype)
        return x + torch.sin(frame[:, None] * self.frequency + self.phase)


class _Pruner(BasePruningFunc):
    """Cuts the frequencies and phases of channels."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        keep = sorted(set(range(layer.frequency.numel())) - set(idxs))
        layer.frequency, layer.phase = layer.frequency[keep], layer.phase[keep]
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.frequency.numel())

    get_in_channels = get_out_channels


class _Rule(LayerRule):
    """Each channel (last axis) keeps to itself; no parameters, no products."""

    kind = "positions"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    _pruner = _Pruner()

    def pruner(self, module: nn.Module) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        return n_out * 0


register_rule(_Rule(), PositionalEncoding)
