"""TDANet: attention at the coarsest level looks down on all levels of the pyramid.

Li, Yang, Hu: "An efficient encoder-decoder architecture with top-down attention for speech
separation", ICLR 2023. Two things differ from the code that its authors published, neither in the
number of parameters; ``as_published`` brings them back, for weights that were trained so:

* attention runs over time (there it runs over the batch: with one item, each frame sees itself);
* the decoder starts at the coarsest level (there at a finer one: the weights that fuse the coarsest
  are never used).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import RecurrentSeparator, UBlock, conv_stage, depthwise_stage, resize
from .masking import MaskingModel
from .positions import PositionalEncoding

__all__ = ["TDANet"]

DROP = 0.1  # of every dropout, and of whole branches


class DropBranch(nn.Module):
    """Leave out a residual branch for whole items of a batch, in training only.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; what is left is scaled
    up so that its mean stays.
    """

    def __init__(self, share: float = DROP) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.share == 0:
            return x
        kept = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.share)
        return x * (kept / (1 - self.share))


class TimeAttention(nn.Module):
    """Multi-head self-attention over time, normed before and after; (B, C, T) -> (B, C, T).

    The authors' code norms y + dropout(y), which outside training is the norm of y.
    """

    def __init__(self, channels: int, heads: int, over_batch: bool = False) -> None:
        super().__init__()
        self.attn_in_norm = nn.LayerNorm(channels)
        self.pos_enc = PositionalEncoding(channels)
        self.attn = nn.MultiheadAttention(channels, heads, dropout=DROP, batch_first=not over_batch)
        self.dropout = nn.Dropout(DROP)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        frames = self.pos_enc(self.attn_in_norm(x.transpose(1, 2)))
        seen, _ = self.attn(frames, frames, frames, need_weights=False)
        normed: Tensor = self.norm(self.dropout(seen))
        return normed.transpose(1, 2)


class FeedForward(nn.Module):
    """Widen, convolve each channel in time, narrow; (B, C, T) -> (B, C, T).

    The SepPrune paper prunes the wide channels.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = conv_stage(channels, hidden, bias=False)
        self.dwconv = nn.Conv1d(hidden, hidden, 5, padding=2, groups=hidden)
        self.fc2 = conv_stage(hidden, channels, bias=False)
        self.drop = nn.Dropout(DROP)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        wide = self.drop(self.dwconv(self.fc1(x)).relu())
        narrow: Tensor = self.drop(self.fc2(wide))
        return narrow


class GlobalAttention(nn.Module):
    """A transformer layer with convolutions in its feed-forward part; (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, heads: int, over_batch: bool) -> None:
        super().__init__()
        self.attn = TimeAttention(channels, heads, over_batch)
        self.mlp = FeedForward(channels, 2 * channels)
        self.drop_path = DropBranch()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        x = x + self.drop_path(self.attn(x))
        mixed: Tensor = x + self.drop_path(self.mlp(x))
        return mixed


class TopDown(nn.Module):
    """Let a coarse map open and shift a fine one: local * sigmoid(a) + b, a and b of the coarse.

    Each of the three is a depthwise convolution with a norm, so channels stay apart.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.local_embedding = depthwise_stage(channels, kernel, bias=False)
        self.global_embedding = depthwise_stage(channels, kernel, bias=False)
        self.global_act = depthwise_stage(channels, kernel, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, T), (B, C, T') -> (B, C, T)."""
        gate = resize(self.global_act(coarse).sigmoid(), fine)
        shift = resize(self.global_embedding(coarse), fine)
        opened: Tensor = self.local_embedding(fine) * gate + shift
        return opened


class TopDownBlock(UBlock):
    """All levels, pooled to the coarsest, are attended to; the result goes down level by level."""

    def __init__(
        self, bottleneck: int, hidden: int, depth: int, heads: int, as_published: bool
    ) -> None:
        super().__init__(bottleneck, hidden, depth)
        self.start = depth - 3 if as_published else depth - 1
        self.globalatt = GlobalAttention(hidden, heads, as_published)
        self.loc_glo_fus = nn.ModuleList([TopDown(hidden, 1) for _ in range(depth)])
        self.last_layer = nn.ModuleList([TopDown(hidden, 5) for _ in range(depth - 1)])

    def fuse(self, levels: list[Tensor]) -> Tensor:
        frames = levels[-1].shape[-1]
        pooled = torch.stack([F.adaptive_avg_pool1d(level, frames) for level in levels])
        overview = self.globalatt(pooled.sum(0))
        seen = [top_down(x, overview) for top_down, x in zip(self.loc_glo_fus, levels, strict=True)]
        total: Tensor = seen[self.start]
        for top_down, fine in zip(reversed(self.last_layer), reversed(seen[:-1]), strict=True):
            total = top_down(fine, total)
        return total


class TDANet(MaskingModel):
    """TDANet with one recurrent block; mixture (B, T) or (B, 1, T) -> estimates (B, S, T)."""

    def __init__(
        self,
        sources: int = 2,
        kernel: int = 64,
        bottleneck: int = 128,
        hidden: int = 512,
        depth: int = 5,
        iterations: int = 16,
        heads: int = 8,
        as_published: bool = False,
    ) -> None:
        """Make the network.

        Args:
            sources: Signals to find.
            kernel: Samples of a filter, a multiple of 4; frames are a quarter as far apart, and
                there are half as many filters, and one.
            bottleneck: Channels between iterations.
            hidden: Channels of the pyramid, a multiple of ``heads``.
            depth: Levels of the pyramid.
            iterations: How often the block runs.
            heads: Of the attention.
            as_published: Whether to attend and decode as the authors' code does (see above).
        """
        super().__init__(
            RecurrentSeparator(
                TopDownBlock(bottleneck, hidden, depth, heads, as_published), bottleneck, iterations
            ),
            sources=sources,
            basis=kernel // 2 + 1,
            bottleneck=bottleneck,
            kernel=kernel,
            stride=kernel // 4,
            multiple=kernel,
            margin=kernel - kernel // 4,
        )

    def padding(self, samples: int) -> int:
        """At least one zero, up to whole windows less a hop (so that checkpoints see the same)."""
        hop = int(self.encoder.stride[0])
        return self.multiple - (samples + hop) % self.multiple
