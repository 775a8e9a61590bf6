"""What stands in for slow layers: the same sums, in fewer and faster passes over memory.

All take and return (B, C, *) like the layer that they replace, in eval mode only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._optimised import ForRunning

__all__ = [
    "Affine",
    "FrameNorm",
    "GlobalNorm",
    "LeakyReLU",
    "Pointwise",
    "ShiftedConv",
    "TransposedFrameNorm",
]


def held(tensor: Tensor) -> nn.Parameter:
    """A contiguous copy that asks for no gradient and moves with its module."""
    return nn.Parameter(tensor.detach().clone().contiguous(), requires_grad=False)


def column(values: Tensor, dims: int) -> Tensor:
    """Values of each channel (C,), shaped to meet (B, C, *) of that many axes."""
    return values.view(1, -1, *([1] * (dims - 2)))


class GlobalNorm(ForRunning):
    """Layer norm over channels and positions, or groups of channels, as one kernel.

    Args:
        gain: Of each channel (C,).
        bias: Of each channel (C,), or None.
        eps: Added to the variance.
        groups: Groups of channels with statistics of their own; 1 is a global layer norm.
    """

    def __init__(self, gain: Tensor, bias: Tensor | None, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.gain, self.eps, self.groups = held(gain), eps, groups
        self.bias = None if bias is None else held(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B, C, *)."""
        return F.group_norm(x, self.groups, self.gain, self.bias, self.eps)


class FrameNorm(ForRunning):
    """Layer norm over the channels of each position, in passes that vectorise along time.

    Args:
        gain: Of each channel (C,).
        bias: Of each channel (C,), or None.
        eps: Added to the variance.
    """

    def __init__(self, gain: Tensor, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.gain, self.eps = held(gain), eps
        self.bias = None if bias is None else held(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B, C, *)."""
        y = x - x.mean(1, keepdim=True)
        variance = y.square().mean(1, keepdim=True)
        y.mul_(variance.add_(self.eps).rsqrt_()).mul_(column(self.gain, x.dim()))
        return y if self.bias is None else y.add_(column(self.bias, x.dim()))


class TransposedFrameNorm(FrameNorm):
    """The same with channels moved last, where torch has a kernel for it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B, C, *)."""
        last = x.movedim(1, -1)
        y = F.layer_norm(last, self.gain.shape, self.gain, self.bias, self.eps)
        return y.movedim(-1, 1).contiguous()


class Affine(ForRunning):
    """A factor and an offset of each channel: what a batch norm is in eval mode.

    Args:
        scale: (C,).
        shift: (C,).
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = held(scale), held(shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> (B, C, *)."""
        return torch.mul(x, column(self.scale, x.dim())).add_(column(self.shift, x.dim()))


class LeakyReLU(ForRunning):
    """PReLU with one slope for all channels, read once.

    Args:
        slope: What negative values are multiplied by.
        inplace: Write over the input: right only where nothing else reads it.
    """

    def __init__(self, slope: float, inplace: bool = False) -> None:
        super().__init__()
        self.slope, self.inplace = slope, inplace

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if self.inplace:
            return F.leaky_relu_(x, self.slope)
        return F.leaky_relu(x, self.slope)


class Pointwise(ForRunning):
    """A convolution with kernel 1 as one matrix product an example.

    Args:
        weight: (C_out, C_in).
        bias: (C_out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = held(weight)
        self.bias = None if bias is None else held(bias[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *) -> (B, C_out, *)."""
        flat = x.flatten(2)
        weight = self.weight.expand(x.shape[0], -1, -1)
        y = weight.bmm(flat) if self.bias is None else torch.baddbmm(self.bias, weight, flat)
        return y.view(x.shape[0], -1, *x.shape[2:])


class ShiftedConv(ForRunning):
    """A depthwise convolution over time as a sum of shifted, scaled copies.

    oneDNN reorders memory before and after each such convolution, and does not vectorise over odd
    numbers of channels; the sum reads each sample once for each tap and nothing else.

    Args:
        weight: (C, 1, K).
        bias: (C,), or None.
        dilation: Samples between taps.
        padding: Zeros on either side.
        stride: 1, or 2: then even and odd samples are taken apart first.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dilation: int, padding: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.taps = held(weight.movedim(-1, 0))  # (K, C, 1)
        self.bias = None if bias is None else held(bias[:, None])
        self.reach = dilation * (weight.shape[-1] - 1) - 2 * padding
        self.dilation, self.padding, self.stride = dilation, padding, stride
        offsets = [k * dilation - padding for k in range(weight.shape[-1])]
        # The tap nearest to the middle first: it most often reaches every sample of the output.
        self.offsets = sorted(enumerate(offsets), key=lambda pair: abs(pair[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T')."""
        size = (x.shape[-1] - self.reach - 1) // self.stride + 1
        phases, taps = _phases(x, self.stride), self.taps.unbind()
        y: Tensor | None = None
        for tap, offset in self.offsets:
            part = phases[offset % self.stride]
            y = _add_shifted(y, part, taps[tap], offset // self.stride, size, self.bias)
        assert y is not None
        return y


def _phases(x: Tensor, stride: int) -> Sequence[Tensor]:
    """Every ``stride``-th sample, from each of the first ones on."""
    if stride == 1:
        return (x,)
    return [x[..., start::stride].contiguous() for start in range(stride)]


def _add_shifted(
    y: Tensor | None, x: Tensor, tap: Tensor, offset: int, size: int, bias: Tensor | None
) -> Tensor:
    """Add tap * x[t + offset] to y[t]; the first of them makes y, with the bias."""
    start, stop = max(0, -offset), min(size, x.shape[-1] - offset)
    inside = x[..., start + offset : stop + offset]
    if y is None:
        if (start, stop) == (0, size):
            y = torch.mul(inside, tap)
            return y if bias is None else y.add_(bias)
        y = x.new_zeros(*x.shape[:-1], size)
        y = y if bias is None else y.add_(bias)
    if stop > start:
        y[..., start:stop].addcmul_(inside, tap)
    return y
