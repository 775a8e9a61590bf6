"""Layers over time with channels innermost in memory: maps (B, C, 1, T), torch's channels_last.

oneDNN's depthwise convolution then reorders nothing, and a convolution with kernel 1 is a plain
matrix product.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .._optimised import ForRunning
from .modules import Affine, GlobalNorm, LeakyReLU, Pointwise, ShiftedConv, held

__all__ = ["ChainLast", "DepthwiseLast", "PointwiseLast", "channels_last", "to_last"]


def to_last(x: Tensor) -> Tensor:
    """(B, C, T) -> (B, C, 1, T) with channels innermost; no copy if they are already."""
    return x.transpose(1, 2).contiguous().transpose(1, 2).unsqueeze(2)


class PointwiseLast(ForRunning):
    """A convolution with kernel 1.

    Args:
        weight: (C_out, C_in).
        bias: (C_out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = held(weight)
        self.bias = None if bias is None else held(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, 1, T) -> (B, C_out, 1, T)."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class DepthwiseLast(ForRunning):
    """A depthwise convolution over time.

    Args:
        weight: (C, 1, K).
        bias: (C,), or None.
        dilation: Samples between taps.
        padding: Zeros on either side.
        stride: Samples from output to output.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dilation: int, padding: int, stride: int
    ) -> None:
        super().__init__()
        self.weight = held(weight.unsqueeze(2))
        self.bias = None if bias is None else held(bias)
        self.steps = (1, stride), (0, padding), (1, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, T) -> (B, C, 1, T')."""
        return F.conv2d(x, self.weight, self.bias, *self.steps, self.weight.shape[0])


class ChainLast(nn.Sequential, ForRunning):
    """Layers in sequence with channels last inside; (B, C, T) -> (B, C', T')."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', T'), a view with channels innermost."""
        y: Tensor = super().forward(to_last(x))
        return y.squeeze(2)


def channels_last(layers: list[nn.Module]) -> list[nn.Module] | None:
    """The same layers for channels last; None if one of them is not known to work so."""
    found = [_layer(layer) for layer in layers]
    return None if any(layer is None for layer in found) else found  # type: ignore[return-value]


def _layer(layer: nn.Module) -> nn.Module | None:
    if type(layer) is Pointwise:
        bias = None if layer.bias is None else layer.bias.flatten()
        return PointwiseLast(layer.weight, bias)
    if type(layer) is ShiftedConv:
        weight = layer.taps.movedim(0, -1)
        bias = None if layer.bias is None else layer.bias.flatten()
        return DepthwiseLast(weight, bias, layer.dilation, layer.padding, layer.stride)
    if type(layer) is nn.Conv1d:
        return _conv(layer)
    same = (GlobalNorm, LeakyReLU, Affine, nn.GroupNorm, nn.PReLU, nn.ReLU, nn.Identity)
    return layer if type(layer) in same else None


def _conv(conv: nn.Conv1d) -> nn.Module | None:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return None
    (kernel,), (stride,), (padding,) = conv.kernel_size, conv.stride, conv.padding
    if (kernel, stride, padding, conv.groups) == (1, 1, 0, 1):
        return PointwiseLast(conv.weight.flatten(1), conv.bias)
    if conv.groups == conv.in_channels == conv.out_channels:
        return DepthwiseLast(conv.weight, conv.bias, conv.dilation[0], padding, stride)
    return None
