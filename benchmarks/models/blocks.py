"""What the three families share: stages of convolution, norm and slope, and the block of a U.

Letters: B batch, C channels, T time. Every size is read from tensors, never from an attribute, so
that a pruned block runs as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RecurrentSeparator", "UBlock", "conv_stage", "depthwise_stage", "resize"]

EPS = 1e-8  # of every norm, as published
KERNEL = 5  # of every depthwise stage


def norm_of(channels: int) -> nn.GroupNorm:
    """Global layer norm: one mean and variance over channels and time."""
    return nn.GroupNorm(1, channels, eps=EPS)


def conv_stage(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    slope: bool = False,
) -> nn.Sequential:
    """Convolution and global norm, (B, inputs, T) -> (B, outputs, ceil(T / stride)).

    Args:
        inputs: Channels read.
        outputs: Channels made.
        kernel: Odd.
        stride: Frames a step.
        groups: Of the convolution.
        bias: Whether the convolution has one.
        slope: Whether a PReLU with one slope follows.

    Returns:
        The stage: ``conv``, ``norm`` and perhaps ``act``.
    """
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv1d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias
        ),
        "norm": norm_of(outputs),
    }
    if slope:
        layers["act"] = nn.PReLU()
    return nn.Sequential(OrderedDict(layers))


def depthwise_stage(
    channels: int, kernel: int = KERNEL, *, stride: int = 1, bias: bool = True
) -> nn.Sequential:
    """A stage that convolves each channel with itself alone."""
    return conv_stage(channels, channels, kernel, stride=stride, groups=channels, bias=bias)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Repeat or drop frames (nearest) until ``x`` is as long as ``like``."""
    if x.shape[-1] == like.shape[-1]:
        return x
    return F.interpolate(x, size=like.shape[-1], mode="nearest")


class UBlock(nn.Module, ABC):
    """One pass down and up again, around a residual; (B, C, T) -> (B, C, T).

    A 1 x 1 convolution widens the input; depthwise stages make a pyramid of it, each level half as
    long as the one before; :meth:`fuse` brings the levels together; a 1 x 1 convolution narrows the
    result, which is added to the input. How levels are fused is what tells the families apart.
    """

    def __init__(self, bottleneck: int, hidden: int, depth: int) -> None:
        """Make the parts that all families have.

        Args:
            bottleneck: Channels of the residual.
            hidden: Channels of the pyramid.
            depth: Levels.
        """
        super().__init__()
        self.proj_1x1 = conv_stage(bottleneck, hidden, slope=True)
        self.spp_dw = nn.ModuleList(
            [depthwise_stage(hidden, stride=2 if level else 1) for level in range(depth)]
        )
        self.res_conv = nn.Conv1d(hidden, bottleneck, 1)

    @abstractmethod
    def fuse(self, levels: list[Tensor]) -> Tensor:
        """Bring the levels together.

        Args:
            levels: Finest first, (B, hidden, T), (B, hidden, T / 2)...

        Returns:
            (B, hidden, T).
        """

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, T) -> (B, bottleneck, T)."""
        level = self.proj_1x1(x)
        levels = []
        for stage in self.spp_dw:
            level = stage(level)
            levels.append(level)
        return x + self.res_conv(self.fuse(levels))


class RecurrentSeparator(nn.Module):
    """One block applied again and again, its weights the same each time.

    From the second time on it reads the sum of the first input and its last output, through a
    1 x 1 depthwise convolution and a slope.
    """

    def __init__(self, block: UBlock, bottleneck: int, iterations: int) -> None:
        """Wrap a block.

        Args:
            block: The block.
            bottleneck: Its channels.
            iterations: How often it runs.
        """
        super().__init__()
        self.blocks = block
        self.iterations = iterations
        self.concat_block = nn.Sequential(
            nn.Conv1d(bottleneck, bottleneck, 1, groups=bottleneck), nn.PReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, T) -> (B, bottleneck, T)."""
        y = self.blocks(x)
        for _ in range(self.iterations - 1):
            y = self.blocks(self.concat_block(x + y))
        return y
