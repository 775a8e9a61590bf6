"""Faster blocks for Asteroid: the same layers, with fewer passes over memory.

Importing this module registers them; ``sepprune_tp.inference`` does so when it meets an Asteroid
module. The blocks hold layers that may themselves be replaced already.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from asteroid.masknn import _local, convolutional, norms, recurrent
from asteroid_filterbanks import AnalyticFreeFB, Decoder, Encoder, FreeFB
from torch import Tensor, nn
from torch.nn import functional as F

from .._optimised import ForRunning
from ..inference.candidates import (
    Candidates,
    Chain,
    batch_norm,
    folded,
    in_place,
    register_rewrite,
    replaced,
)
from ..inference.channels_last import ChainLast, channels_last, to_last
from ..inference.modules import Affine, Pointwise, column, held

__all__ = ["DualPathBlock", "Frames", "OverlapAdd", "SkipBlock", "UNetBlock"]


_ORDER: dict[type[nn.Module], tuple[str, ...]] = {
    _local._ConvNormAct: ("conv", "norm", "act"),
    _local._ConvNorm: ("conv", "norm"),
    _local._DilatedConvNorm: ("conv", "norm"),
    _local._NormAct: ("norm", "act"),
}


class SkipBlock(ForRunning):
    """Conv-TasNet's block with residual and skip convolution as one matrix product."""

    def __init__(self, layers: nn.Module, sizes: list[int]) -> None:
        super().__init__()
        self.layers, self.sizes = layers, sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, N, T) -> residual (B, N, T) and skip (B, Sc, T)."""
        return self.layers(x).split(self.sizes, 1)  # type: ignore[no-any-return]


def _skip_block(module: Any) -> Candidates:
    convs = [module.res_conv, module.skip_conv] if module.skip_out_chan else []
    if not all(type(conv) in (nn.Conv1d, Pointwise) and conv.bias is not None for conv in convs):
        return []
    if not convs:
        return []
    weight = torch.cat([conv.weight.flatten(1) for conv in convs])
    bias = torch.cat([conv.bias.flatten() for conv in convs])
    layers = in_place(list(module.shared_block))
    last = layers[-1]
    if type(last) is Affine:
        layers.pop()
        bias = bias + weight @ last.shift
        weight = weight * last.scale
    layers.append(Pointwise(weight, bias))
    sizes = [conv.weight.shape[0] for conv in convs]
    found: Candidates = [("one product for residual and skip", SkipBlock(Chain(*layers), sizes))]
    last_layers = channels_last(layers)
    if last_layers is not None:
        found.append(("block with channels last", SkipBlock(ChainLast(*last_layers), sizes)))
    return found


class UNetBlock(ForRunning):
    """SuDoRM-RF's block (improved): levels added in place, no copy of the input.

    Args:
        block: A ``UConvBlock``.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.proj, self.levels = block.proj_1x1, block.spp_dw
        self.final, self.res = block.final_norm, block.res_conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, T) -> (B, N, T)."""
        maps = [self.proj(x)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        y = maps.pop()
        while len(maps) > 1:
            finer = maps.pop()
            y = finer.add_(_twice(y)[..., : finer.shape[-1]])
        out: Tensor = self.res(self.final(y))
        return out.add_(x)


class UNetBlockLast(ForRunning):
    """The same with channels innermost in memory, where depthwise kernels reorder nothing.

    Args:
        chains: Layers of projection, of each level, of the final norm, and of the output.
    """

    def __init__(self, chains: list[list[nn.Module]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Sequential(*layers) for layers in chains])

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, T) -> (B, N, T)."""
        proj, *levels, final, res = self.parts
        x = to_last(x)
        maps = [proj(x)]
        for level in levels:
            maps.append(level(maps[-1]))
        y = maps.pop()
        while len(maps) > 1:
            finer = maps.pop()
            y = finer.add_(F.interpolate(y, scale_factor=(1, 2))[..., : finer.shape[-1]])
        out: Tensor = res(final(y))
        return out.add_(x).squeeze(2)


def _twice(x: Tensor) -> Tensor:
    """Every sample twice: a complex number of it and itself, read as real."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.repeat_interleave(2, -1)
    return torch.view_as_real(torch.complex(x, x)).flatten(-2)


def _unet_block(module: Any) -> Candidates:
    up = getattr(module, "upsampler", None)
    if up is not None and (type(up) is not nn.Upsample or up.mode != "nearest"):
        return []
    if up is not None and (up.scale_factor != 2 or up.size is not None):
        return []
    if type(module.res_conv) not in (nn.Conv1d, Pointwise):
        return []
    found: Candidates = [("levels added in place", UNetBlock(module))]
    proj, final, res = module.proj_1x1, module.final_norm, module.res_conv
    lists = [_layers_of(part) for part in (proj, *module.spp_dw, final)] + [[res]]
    chains = [channels_last(in_place(layers)) for layers in lists]
    if all(chain is not None for chain in chains):
        found.append(("block with channels last", UNetBlockLast(chains)))  # type: ignore[arg-type]
    return found


def _layers_of(part: Any) -> list[nn.Module]:
    """The layers of SuDoRM-RF's small modules, in order."""
    if isinstance(part, nn.Sequential):
        return list(part)
    return [getattr(part, name) for name in _ORDER.get(type(part), ())] or [part]


def _chain(*names: str) -> Any:
    """A builder for modules that run the layers of these names in order."""

    def fold(module: Any) -> Candidates:
        layers = [getattr(module, name) for name in names]
        new = folded(layers)
        return [("batch norm folded", Chain(*new))] if len(new) < len(layers) else []

    def block(module: Any) -> Candidates:
        layers = [getattr(module, name) for name in names]
        new = in_place(layers)
        changed = any(a is not b for a, b in zip(layers, new, strict=True))
        return [("in-place activation", Chain(*new))] if changed else []

    return fold, block


class DualPathBlock(ForRunning):
    """DPRNN's block with time first, as recurrent kernels read it.

    Two transpositions of rows a block; every sum and product is of contiguous memory.

    Args:
        block: A ``DPRNNBlock`` of plain RNNs.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.paths = nn.ModuleList()
        for name in ("intra", "inter"):
            rnn = copy.deepcopy(getattr(block, f"{name}_RNN").rnn)
            rnn.batch_first = False
            norm = replaced(getattr(block, f"{name}_norm"))  # its input will be contiguous here
            self.paths.append(nn.ModuleList((rnn, getattr(block, f"{name}_linear"), norm)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, K, L) -> (B, N, K, L), channels innermost in memory."""
        x = self._path(self.paths[0], x.permute(2, 0, 3, 1)).permute(1, 3, 0, 2)
        return self._path(self.paths[1], x.permute(3, 0, 2, 1)).permute(1, 3, 2, 0)

    def _path(self, layers: Any, x: Tensor) -> Tensor:
        """(steps, B, rows, N) -> the same; recurrent along the steps."""
        rnn, linear, norm = layers
        x = x.contiguous()
        steps, batch, rows, width = x.shape
        y: Tensor = linear(rnn(x.view(steps, batch * rows, width))[0]).view(x.shape)
        y = norm(y.permute(1, 3, 0, 2)).permute(2, 0, 3, 1)
        return x + y


def _dual_path(module: Any) -> Candidates:
    plain = all(type(r) is recurrent.SingleRNN for r in (module.intra_RNN, module.inter_RNN))
    return [("time first", DualPathBlock(module))] if plain else []


class CumulativeNorm(ForRunning):
    """Layer norm over channels and all frames so far, with its affine in place.

    Args:
        gain: Of each channel (C,).
        bias: Of each channel (C,).
        eps: Added to the variance.
    """

    def __init__(self, gain: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.gain, self.bias, self.eps = held(gain), held(bias), eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        channels, frames = x.shape[1:]
        count = torch.arange(1, frames + 1, dtype=x.dtype, device=x.device) * channels
        mean = x.sum(1, keepdim=True).cumsum(-1) / count
        power = x.square().sum(1, keepdim=True).cumsum(-1) / count
        scale = (power - mean.square()).add_(self.eps).rsqrt_()
        y = (x - mean).mul_(scale).mul_(column(self.gain, x.dim()))
        return y.add_(column(self.bias, x.dim()))


def _cumulative(module: Any) -> Candidates:
    return [("cumulative norm in place", CumulativeNorm(module.gamma, module.beta, 1e-8))]


# -- filterbanks ----------------------------------------------------------------------------------


class Frames(ForRunning):
    """A learned encoder as one matrix product with the frames of the waveform.

    Args:
        filters: (N, 1, K).
        stride: Samples from frame to frame.
        padding: Zeros on either side of the waveform.
    """

    def __init__(self, filters: Tensor, stride: int, padding: int) -> None:
        super().__init__()
        self.filters, self.stride, self.padding = held(filters.flatten(1)), stride, padding

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 1, T) -> (B, N, frames)."""
        if waveform.dim() != 3 or waveform.shape[1] != 1:
            raise ValueError("one channel (B, 1, T) only")
        waveform = F.pad(waveform[:, 0], (self.padding, self.padding))
        frames = waveform.unfold(-1, self.filters.shape[1], self.stride)
        return torch.matmul(self.filters, frames.transpose(1, 2))


class OverlapAdd(ForRunning):
    """A learned decoder as one matrix product, then overlap and add.

    Args:
        filters: (N, 1, K).
        stride: Samples from frame to frame.
        start: Samples to drop at the start.
        end: Samples to drop at the end.
    """

    def __init__(self, filters: Tensor, stride: int, start: int, end: int) -> None:
        super().__init__()
        self.filters, self.stride = held(filters.flatten(1).t()), stride
        self.start, self.end = start, end

    def forward(self, spec: Tensor, length: int | None = None) -> Tensor:
        """(B, N, frames) -> (B, 1, T), or (B, S, N, frames) -> (B, S, T)."""
        kernel, frames = self.filters.shape[0], spec.shape[-1]
        rows = torch.matmul(self.filters, spec.flatten(0, -3))
        size = (frames - 1) * self.stride + kernel
        waveform = F.fold(rows, (1, size), (1, kernel), stride=(1, self.stride)).flatten(1)
        waveform = waveform[:, self.start : size - self.end]
        shape = (*spec.shape[:-2], -1) if spec.dim() > 3 else (spec.shape[0], 1, -1)
        return waveform.reshape(shape)[..., :length]


def _learned(module: Any) -> bool:
    known = type(module.filterbank) in (FreeFB, AnalyticFreeFB)
    return known and not module.is_pinv


def _encoder(module: Any) -> Candidates:
    if not _learned(module) or not module.as_conv1d:
        return []
    frames = Frames(module.filterbank.filters(), module.stride, module.padding)
    return [("one matrix product with frames", frames)]


def _decoder(module: Any) -> Candidates:
    start, end = module.padding, module.padding - module.output_padding
    if not _learned(module) or end < 0:
        return []
    filters = module.filterbank.filters()
    return [("overlap-add", OverlapAdd(filters, module.stride, start, end))]


for _cls, _names in _ORDER.items():
    for _stage, _build in zip(("fold", "block"), _chain(*_names), strict=True):
        register_rewrite(_stage, _build, _cls)  # type: ignore[arg-type]
register_rewrite("layer", _cumulative, norms.CumLN)
register_rewrite("layer", batch_norm, norms.BatchNorm)
register_rewrite("layer", _encoder, Encoder)
register_rewrite("layer", _decoder, Decoder)
register_rewrite("block", _skip_block, convolutional.Conv1DBlock)
register_rewrite("block", _unet_block, convolutional.UConvBlock)
register_rewrite("block", _dual_path, recurrent.DPRNNBlock)
