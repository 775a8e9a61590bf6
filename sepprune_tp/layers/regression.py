"""Layers as linear functions of their weights, so that these follow from inputs and outputs.

Letters: G independent problems, n rows (positions in batch and time), F features, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import swapped_parameters

__all__ = [
    "AffineRegression",
    "ConvolutionRegression",
    "LinearRegression",
    "Regression",
    "at_positions",
    "windows",
]


class Regression(ABC):
    """One layer: its output is ``features @ weight.T + bias`` at every position.

    A layer may have several stages, one after the other: the features of a stage may depend on the
    weights that the stages before it wrote.

    Attributes:
        stages: Their number.
        kind: ``mixing`` (reads several channels), ``depthwise`` or ``norm``.
    """

    stages: int = 1
    kind: str = "mixing"

    @abstractmethod
    def rows(self, x: Tensor, y: Tensor) -> int:
        """Number of positions of a call with input x and output y."""

    @abstractmethod
    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """What the weights meet at some positions, (G, n, F).

        Args:
            stage: Which weights.
            x: Input of a call.
            shape: Of the output of the call, where positions count; channels may be the dense ones.
            picked: Indices of positions, shape (n,).
        """

    @abstractmethod
    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """What a dense layer gives at some positions, on the outputs to keep, (1 or G, n, O)."""

    def forced(self, stage: int, x: Tensor, picked: Tensor, keep: Tensor) -> Tensor | None:
        """Features that a dense layer lends to the pruned one, (G, n, F), or None for its own."""
        return None

    @abstractmethod
    def weight(self, stage: int) -> Tensor:
        """The weights, (G, O, F)."""

    @abstractmethod
    def bias(self, stage: int) -> Tensor | None:
        """The bias, (G, O), or None if there is none that may change."""

    @abstractmethod
    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Give the layer other weights, in place."""


class LinearRegression(Regression):
    """A linear layer: features on the last axis."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every index of the leading axes."""
        return x.numel() // x.shape[-1]

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """The inputs."""
        return x.reshape(-1, x.shape[-1])[picked][None]

    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """The outputs."""
        return y.reshape(-1, y.shape[-1])[picked][:, keep][None]

    def weight(self, stage: int) -> Tensor:
        """(1, O, F)."""
        weight: Tensor = self._module.weight
        return weight[None]

    def bias(self, stage: int) -> Tensor | None:
        """(1, O)."""
        bias: Tensor | None = self._module.bias
        return None if bias is None else bias[None]

    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Copy."""
        self._module.weight.copy_(weight[0])
        if bias is not None:
            self._module.bias.copy_(bias[0])


class ConvolutionRegression(Regression):
    """A convolution, x (B, C, *): the features of a position are what the kernel covers."""

    def __init__(self, module: Any) -> None:
        self._module = module
        groups = int(module.groups)
        self.kind = "mixing" if groups == 1 or groups < module.in_channels else "depthwise"

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every item and output position."""
        return y.numel() // y.shape[-1 - self._axes]

    @property
    def _axes(self) -> int:
        return len(self._module.kernel_size)

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """(groups, n, C / groups * kernel)."""
        module = self._module
        x = _padded(module, _batched(x, self._axes))
        found = windows(x, module.kernel_size, module.stride, module.dilation, picked)
        groups = int(module.groups)
        return found.reshape(len(picked), groups, -1).transpose(0, 1)

    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """(groups, n, O / groups); a depthwise layer's groups are the channels to keep."""
        found = at_positions(_batched(y, self._axes), picked)[:, keep]
        groups = len(keep) if self.kind == "depthwise" else int(self._module.groups)
        return found.reshape(len(picked), groups, -1).transpose(0, 1)

    def weight(self, stage: int) -> Tensor:
        """(groups, O / groups, C / groups * kernel)."""
        weight: Tensor = self._module.weight
        groups = int(self._module.groups)
        return weight.reshape(groups, weight.shape[0] // groups, -1)

    def bias(self, stage: int) -> Tensor | None:
        """(groups, O / groups)."""
        bias: Tensor | None = self._module.bias
        return None if bias is None else bias.unflatten(0, (int(self._module.groups), -1))

    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Copy."""
        self._module.weight.copy_(weight.reshape(self._module.weight.shape))
        if bias is not None:
            self._module.bias.copy_(bias.flatten())


class AffineRegression(Regression):
    """Gain and bias of each channel of a norm: a problem for each channel."""

    kind = "norm"

    def __init__(self, module: nn.Module, axis: Callable[[Tensor], int], gain: str, bias: str):
        """Take a norm, the axis of its channels, and the names of its parameters."""
        self._module, self._axis = module, axis
        self._gain, self._offset = gain, bias

    def _of(self, name: str) -> Tensor | None:
        found = getattr(self._module, name, None) if name else None
        return cast("Tensor | None", found)

    def _table(self, x: Tensor) -> Tensor:
        """(positions, C)."""
        axis = self._axis(x)
        return x.movedim(axis, -1).reshape(-1, x.shape[axis])

    def rows(self, x: Tensor, y: Tensor) -> int:
        """Every index but that of the channel."""
        return y.numel() // y.shape[self._axis(y)]

    def features(self, stage: int, x: Tensor, shape: torch.Size, picked: Tensor) -> Tensor:
        """The normalised input, (C, n, 1)."""
        gain, offset = self._of(self._gain), self._of(self._offset)
        assert gain is not None
        plain = {self._gain: torch.ones_like(gain)}
        if offset is not None:
            plain[self._offset] = torch.zeros_like(offset)
        with swapped_parameters(self._module, plain):
            return self._table(type(self._module).forward(self._module, x))[picked].t()[..., None]

    def targets(self, stage: int, x: Tensor, y: Tensor, picked: Tensor, keep: Tensor) -> Tensor:
        """(kept, n, 1)."""
        return self._table(y)[picked][:, keep].t()[..., None]

    def weight(self, stage: int) -> Tensor:
        """(C, 1, 1)."""
        gain = self._of(self._gain)
        assert gain is not None
        return gain.reshape(-1, 1, 1)

    def bias(self, stage: int) -> Tensor | None:
        """(C, 1)."""
        offset = self._of(self._offset)
        return None if offset is None else offset.reshape(-1, 1)

    def write(self, stage: int, weight: Tensor, bias: Tensor | None) -> None:
        """Copy."""
        gain, offset = self._of(self._gain), self._of(self._offset)
        assert gain is not None
        gain.copy_(weight.reshape(gain.shape))
        if offset is not None and bias is not None:
            offset.copy_(bias.reshape(offset.shape))


def _batched(x: Tensor, axes: int) -> Tensor:
    """(B, C, *), with B = 1 for an input without."""
    return x[None] if x.dim() == axes + 1 else x


def at_positions(y: Tensor, picked: Tensor) -> Tensor:
    """(n, C) of (B, C, *)."""
    return y.movedim(1, -1).reshape(-1, y.shape[1])[picked]


def _padded(module: Any, x: Tensor) -> Tensor:
    pads: list[int] = []
    if isinstance(module.padding, str):
        pads = list(module._reversed_padding_repeated_twice)
    else:
        for amount in reversed(module.padding):
            pads += [amount, amount]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(x, pads, mode=mode)


def windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    picked: Tensor,
) -> Tensor:
    """What a kernel covers at some of its positions: (n, C, *kernel) of padded x (B, C, *)."""
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
    shape = (x.shape[0], *x.shape[2 : 2 + len(kernel)])
    item, *places = torch.unravel_index(picked, shape)
    index: Any = (item, slice(None), *places)
    return x[index]
