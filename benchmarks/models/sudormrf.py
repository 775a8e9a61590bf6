"""SuDoRM-RF: successive downsampling and resampling of multi-resolution features.

Tzinis, Wang, Smaragdis: "Sudo rm -rf: Efficient Networks for Universal Audio Source Separation",
MLSP 2020; the later variant with global norms, one slope a layer, residual blocks and ReLU masks,
which is the one that the SepPrune paper prunes.
"""

from __future__ import annotations

from collections import OrderedDict
from math import lcm

from torch import Tensor, nn

from .blocks import UBlock, norm_of, resize
from .masking import MaskingModel

__all__ = ["SuDoRMRF"]


class ResamplingBlock(UBlock):
    """Adds the levels up, coarsest first, each repeated to the length of the next finer one."""

    def __init__(self, bottleneck: int, hidden: int, depth: int) -> None:
        super().__init__(bottleneck, hidden, depth)
        self.final_norm = nn.Sequential(OrderedDict(norm=norm_of(hidden), act=nn.PReLU()))

    def fuse(self, levels: list[Tensor]) -> Tensor:
        total = levels[-1]
        for level in reversed(levels[:-1]):
            total = level + resize(total, level)
        found: Tensor = self.final_norm(total)
        return found


class SuDoRMRF(MaskingModel):
    """SuDoRM-RF; mixture (B, T) or (B, 1, T) -> estimates (B, S, T)."""

    def __init__(
        self,
        sources: int = 2,
        basis: int = 512,
        kernel: int = 21,
        bottleneck: int = 128,
        hidden: int = 512,
        depth: int = 5,
        blocks: int = 16,
    ) -> None:
        """Make the network.

        Args:
            sources: Signals to find.
            basis: Filters of encoder and decoder.
            kernel: Samples of a filter, odd; frames are half as far apart.
            bottleneck: Channels between blocks.
            hidden: Channels of each pyramid: what the SepPrune paper prunes.
            depth: Levels of a pyramid.
            blocks: Blocks, each with weights of its own.
        """
        super().__init__(
            nn.Sequential(*[ResamplingBlock(bottleneck, hidden, depth) for _ in range(blocks)]),
            sources=sources,
            basis=basis,
            bottleneck=bottleneck,
            kernel=kernel,
            stride=kernel // 2,
            multiple=lcm(kernel // 2, 2**depth),
        )
