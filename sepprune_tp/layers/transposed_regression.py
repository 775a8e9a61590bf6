"""Transposed convolutions as linear functions of their weights; what a convolution has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .regression import ConvolutionRegression, Regression, at_positions, windows

__all__ = ["TransposedRegression", "convolution_regression"]


class TransposedRegression(Regression):
    """A transposed convolution without groups, as the convolution of an input spread by zeros.

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
        self._stride, self._dilation = stride, dilation
        kernel = weight.shape[2:]
        pairs = zip(kernel, dilation, padding, strict=True)
        self._before = [d * (k - 1) - p for k, d, p in pairs]
        grids = torch.meshgrid(*(torch.arange(k) for k in kernel), indexing="ij")
        self._phase_of_tap = self._code([g * d - p for g, d, p in self._zip(grids, padding)])
        self._taps = self._split(self._phase_of_tap.flatten())
        self.stages = len(self._taps)

    def _zip(self, grids: Sequence[Tensor], padding: Sequence[int]) -> list[tuple[Any, ...]]:
        return list(zip(grids, self._dilation, padding, strict=True))

    def _code(self, indices: Sequence[Tensor]) -> Tensor:
        """A number for the remainder of positions on every axis."""
        code = torch.zeros_like(indices[0])
        for index, stride in zip(indices, self._stride, strict=True):
            code = code * stride + index % stride
        return code

    def _split(self, codes: Tensor) -> list[Tensor]:
        return [(codes == code).nonzero().flatten() for code in codes.unique()]

    def _of_stage(self, stage: int, shape: torch.Size, picked: Tensor) -> Tensor:
        rest = picked
        places: list[Tensor] = []
        for size in reversed(shape[-self._axes :]):
            places.insert(0, rest % size)
            rest = rest // size
        phases = self._code(places)
        wanted = self._phase_of_tap.flatten()[self._taps[stage][0]]
        return picked[phases == wanted.to(phases.device)]

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every item and output position."""
        items = x.shape[: -1 - self._axes].numel()
        return items * y.shape[-self._axes :].numel()

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """(1, n, C * taps)."""
        x = x.reshape(-1, *x.shape[-1 - self._axes :])
        sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self._stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *sizes)
        every: Any = (..., *(slice(None, None, s) for s in self._stride))
        spread[every] = x
        ends = list(zip(shape[-self._axes :], sizes, self._weight.shape[2:], strict=True))
        pads: list[int] = []
        for (out, size, kernel), before, step in reversed(
            list(zip(ends, self._before, self._dilation, strict=True))
        ):
            pads += [before, out + step * (kernel - 1) - size - before]
        picked = self._of_stage(stage, shape, picked)
        ones = [1] * self._axes
        kernel_size = list(self._weight.shape[2:])
        found = windows(functional.pad(spread, pads), kernel_size, ones, self._dilation, picked)
        taps = self._taps[stage].to(found.device)
        return found.flatten(2).flip(2)[:, :, taps].flatten(1)[None]

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
