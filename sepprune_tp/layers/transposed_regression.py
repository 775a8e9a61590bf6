"""Transposed convolutions as linear functions of their weights; what a convolution has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .regression import ConvolutionRegression, Regression, at_positions

__all__ = ["TransposedRegression", "convolution_regression"]


class TransposedRegression(Regression):
    """A transposed convolution without groups: an output is a sum over taps that reach it.

    Output positions that differ modulo the stride read different taps of the kernel: a stage each.
    The bias, which they share, stays as it is.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        """Take the parameters of the layer; weight (C, O, *kernel)."""
        self._weight, self._bias, self._axes = weight, bias, len(stride)
        self._stride = stride
        grids = torch.meshgrid(*(torch.arange(k) for k in weight.shape[2:]), indexing="ij")
        pairs = zip(grids, dilation, padding, strict=True)
        self._offsets = [(grid * d - p).flatten() for grid, d, p in pairs]  # of each tap, an axis
        self._phase_of_tap = self._code(self._offsets)
        self._taps = self._split(self._phase_of_tap)
        self.stages = len(self._taps)

    def _code(self, indices: Sequence[Tensor]) -> Tensor:
        """A number for the remainder of positions on every axis."""
        code = torch.zeros_like(indices[0])
        for index, stride in zip(indices, self._stride, strict=True):
            code = code * stride + index % stride
        return code

    def _split(self, codes: Tensor) -> list[Tensor]:
        return [(codes == code).nonzero().flatten() for code in codes.unique()]

    def _of_stage(self, stage: int, shape: torch.Size, picked: Tensor) -> Tensor:
        phases = self._code(self._places(shape, picked)[1:])
        wanted = self._phase_of_tap[self._taps[stage][0]]
        return picked[phases == wanted.to(phases.device)]

    def _places(self, shape: torch.Size, picked: Tensor) -> list[Tensor]:
        """Item and place on every axis."""
        rest, places = picked, []
        for size in reversed(shape[-self._axes :]):
            places.append(rest % size)
            rest = rest // size
        return [rest, *reversed(places)]

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every item and output position."""
        items = x.shape[: -1 - self._axes].numel()
        return items * y.shape[-self._axes :].numel()

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """(1, n, C * taps)."""
        x = x.reshape(-1, *x.shape[-1 - self._axes :])
        item, *places = self._places(shape, self._of_stage(stage, shape, picked))
        taps = self._taps[stage].to(x.device)
        index = torch.zeros(len(item), len(taps), dtype=torch.long, device=x.device)
        inside = torch.ones_like(index, dtype=torch.bool)
        axes = zip(places, self._offsets, self._stride, x.shape[2:], strict=True)
        for place, offsets, stride, size in axes:
            source = (place[:, None] - offsets.to(x.device)[taps]) // stride
            inside &= (source >= 0) & (source < size)
            index = index * size + source.clamp(0, size - 1)
        found = x.flatten(2)[item[:, None], :, index]  # (n, taps, C)
        found = found.masked_fill(~inside[..., None], 0.0)
        return found.transpose(1, 2).flatten(1)[None]

    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """(1, n, O), less the bias."""
        shaped = y.reshape(-1, self._weight.shape[1], *y.shape[-self._axes :])
        found = at_positions(shaped, self._of_stage(stage, y.shape, picked))
        found = found if self._bias is None else found - self._bias
        return found[:, keep][None]

    def weight(self, stage: int) -> Tensor:
        """(1, O, C * taps)."""
        taps = self._taps[stage].to(self._weight.device)
        return self._weight.flatten(2)[:, :, taps].transpose(0, 1).flatten(1)[None]

    def bias(self, stage: int) -> Tensor | None:
        """None: shared by the stages."""
        return None

    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Copy into the taps of the stage."""
        taps = self._taps[stage].to(self._weight.device)
        channels, outputs = self._weight.shape[:2]
        values = weight[0].reshape(outputs, channels, len(taps)).transpose(0, 1)
        self._weight.flatten(2)[:, :, taps] = values.to(self._weight.dtype)


def convolution_regression(module: Any) -> Regression | None:
    """The regression of one of torch's convolutions; None for a transposed one with groups."""
    if "weight" not in module._parameters:  # computed from others (weight norm)
        return None
    if not module.transposed:
        return ConvolutionRegression(module)
    if module.groups > 1:
        return None
    return TransposedRegression(
        module.weight, module.bias, module.stride, module.padding, module.dilation
    )
