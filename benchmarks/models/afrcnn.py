"""A-FRCNN: every level of the pyramid reads its neighbours, and all are fused at once.

Hu, Li, Zhang, Luo, Lemercier, Gerkmann: "Speech Separation Using an Asynchronous Fully Recurrent
Convolutional Neural Network", NeurIPS 2021. The variant whose iterations add the mixture's features
("SC" there), with concatenation at each level.
"""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor, nn

from .blocks import RecurrentSeparator, UBlock, conv_stage, depthwise_stage, resize
from .masking import MaskingModel

__all__ = ["AFRCNN"]


class FusionBlock(UBlock):
    """Each level reads the finer one (downsampled), itself and the coarser one (repeated).

    The results, made by ``concat_layer``, are brought to full length and read by ``last_layer``:
    the channels that the SepPrune paper prunes lie between the two.
    """

    def __init__(self, bottleneck: int, hidden: int, depth: int) -> None:
        super().__init__(bottleneck, hidden, depth)
        self.fuse_layers = nn.ModuleList(
            [
                nn.ModuleList([depthwise_stage(hidden, stride=2)] if level else [])
                for level in range(depth)
            ]
        )
        self.concat_layer = nn.ModuleList(
            [
                conv_stage(hidden * len(_neighbours(level, depth)), hidden, slope=True)
                for level in range(depth)
            ]
        )
        self.last_layer = nn.Sequential(conv_stage(hidden * depth, hidden, slope=True))

    def fuse(self, levels: list[Tensor]) -> Tensor:
        fused = []
        for index, concat in enumerate(self.concat_layer):
            seen = [
                self._seen_from(index, levels, other) for other in _neighbours(index, len(levels))
            ]
            fused.append(resize(concat(torch.cat(seen, 1)), levels[0]))
        found: Tensor = self.last_layer(torch.cat(fused, 1))
        return found

    def _seen_from(self, index: int, levels: list[Tensor], other: int) -> Tensor:
        """Level ``other`` at the length of level ``index``."""
        if other < index:
            down: Tensor = self.fuse_layers[index][0](levels[other])  # type: ignore[index]
            return down
        return resize(levels[other], levels[index])


def _neighbours(level: int, depth: int) -> range:
    """A level with the next finer and the next coarser one, as far as there are such."""
    return range(max(0, level - 1), min(depth, level + 2))


class AFRCNN(MaskingModel):
    """A-FRCNN with one recurrent block; mixture (B, T) or (B, 1, T) -> estimates (B, S, T)."""

    def __init__(
        self,
        sources: int = 2,
        basis: int = 512,
        kernel: int = 41,
        bottleneck: int = 512,
        hidden: int = 512,
        depth: int = 4,
        iterations: int = 12,
    ) -> None:
        """Make the network.

        Args:
            sources: Signals to find.
            basis: Filters of encoder and decoder.
            kernel: Samples of a filter, odd; frames are half as far apart.
            bottleneck: Channels between iterations.
            hidden: Channels of the pyramid.
            depth: Levels of the pyramid.
            iterations: How often the block runs: the number in the model's name.
        """
        super().__init__(
            RecurrentSeparator(FusionBlock(bottleneck, hidden, depth), bottleneck, iterations),
            sources=sources,
            basis=basis,
            bottleneck=bottleneck,
            kernel=kernel,
            stride=kernel // 2,
            multiple=lcm(kernel // 2, 2**depth),
        )
