"""Operations that exporters lack, as operations that they have: the same numbers, in another way.

Frames of a signal (``unfold``) and their overlap-add (``fold``) along one axis are reshapes, pads
and sums: with hop H, a frame is ceil(K / H) pieces of H samples, and each piece of every frame is
one shifted copy of the signal. Averages over stretches (``adaptive_avg_pool1d``) and nearest
samples (``interpolate``) are sums and picks by index.

Letters: B batch, C channels, T time, K samples of a frame, H hop, L frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError

__all__ = ["ExportableOperations", "frames", "overlap_add"]


def frames(x: Tensor, kernel: int, hop: int, padding: int) -> Tensor:
    """Cut a signal into frames.

    Args:
        x: (B, C, T).
        kernel: Samples of a frame.
        hop: Samples from frame to frame.
        padding: Zeros on either side of the signal.

    Returns:
        (B, C, K, L), L = (T + 2 * padding - K) // H + 1.
    """
    batch, channels, time = x.shape
    pieces = -(-kernel // hop)
    count = (time + 2 * padding - kernel) // hop + 1
    x = F.pad(x, (padding, padding + pieces * hop))
    x = x[..., : (count + pieces - 1) * hop].reshape(batch, channels, count + pieces - 1, hop)
    shifted = [x[:, :, i : i + count].transpose(2, 3) for i in range(pieces)]
    return torch.cat(shifted, 2)[:, :, :kernel]


def overlap_add(x: Tensor, size: int, hop: int, padding: int) -> Tensor:
    """Add frames up where they overlap.

    Args:
        x: (B, C, K, L).
        size: Samples of the signal.
        hop: Samples from frame to frame.
        padding: Samples to drop at the start.

    Returns:
        (B, C, size).
    """
    batch, channels, kernel, count = x.shape
    pieces = -(-kernel // hop)
    x = F.pad(x, (0, 0, 0, pieces * hop - kernel))
    x = x.reshape(batch, channels, pieces, hop, count).transpose(3, 4)
    x = x.reshape(batch, channels, pieces, count * hop)
    shifted = [F.pad(x[:, :, i], (i * hop, (pieces - 1 - i) * hop)) for i in range(pieces)]
    return torch.stack(shifted).sum(0)[..., padding : padding + size]


def pooled(x: Tensor, size: Any) -> Tensor:
    """Means over ``size`` stretches of a signal that are as alike as they can be.

    Args:
        x: (B, C, T).
        size: Stretches, P; the i-th goes from floor(i T / P) to ceil((i + 1) T / P).

    Returns:
        (B, C, P).
    """
    size = size[0] if isinstance(size, (tuple, list)) else size
    time = x.shape[-1]
    position = torch.arange(size, device=x.device).unsqueeze(1)
    start, end = position * time // size, (position * time + time + size - 1) // size
    inside = start + torch.arange((time + size - 1) // size + 1, device=x.device)
    taken = x[..., inside.clamp(max=time - 1)] * (inside < end).to(x.dtype)
    means: Tensor = taken.sum(-1) / (end - start).squeeze(1).to(x.dtype)
    return means


def nearest(x: Tensor, size: Any) -> Tensor:
    """Resize a signal by repeating or dropping samples, which runtimes round in other ways.

    Args:
        x: (B, C, T).
        size: Samples to return, P.

    Returns:
        (B, C, P); sample i is that at floor(i T / P), in float32 as torch computes it.
    """
    size = size[0] if isinstance(size, (tuple, list)) else size
    time = x.shape[-1]
    position = torch.arange(size, dtype=torch.float32, device=x.device) * (time / size)
    return x[..., position.floor().long().clamp(max=time - 1)]


class ExportableOperations(TorchFunctionMode):
    """While it is on, the functions that exporters lack or change run as here.

    Only what calls them from Python is seen: it is on while a model is traced.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run what stands in for a function, or the function."""
        replacement = _REPLACEMENTS.get(func, func)
        return replacement(*args, **(kwargs or {}))


def _unfold(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    axis = _axis("unfold", kernel_size, dilation, padding, stride)
    if input.dim() != 4 or input.shape[3 - axis] != 1:
        raise CheckpointError(_REFUSED.format("unfold"))
    found = frames(
        input.squeeze(3 - axis), *(_pair(v)[axis] for v in (kernel_size, stride, padding))
    )
    return found.flatten(1, 2)


def _fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    axis = _axis("fold", kernel_size, dilation, padding, stride)
    kernel, hop, pad = (_pair(v)[axis] for v in (kernel_size, stride, padding))
    batch, rows, count = input.shape
    stacked = input.reshape(batch, rows // kernel, kernel, count)
    return overlap_add(stacked, _pair(output_size)[axis], hop, pad).unsqueeze(3 - axis)


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **others: Any
) -> Tensor:
    if mode == "nearest" and size is not None and input.dim() == 3:
        return nearest(input, size)
    return F.interpolate(input, size, scale_factor, mode, **others)


_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    F.unfold: _unfold,
    F.fold: _fold,
    F.adaptive_avg_pool1d: pooled,
    F.interpolate: _interpolate,
}
_REFUSED = (
    "The model uses {} over two axes, or with a dilation, which cannot be exported. Write it with "
    "reshape, pad and sums."
)


def _axis(name: str, kernel: Any, dilation: Any, padding: Any, stride: Any) -> int:
    """Which of the two axes the frames are along."""
    kernels, paddings, strides = _pair(kernel), _pair(padding), _pair(stride)
    for axis in (0, 1):
        other = 1 - axis
        plain = (kernels[other], paddings[other], strides[other]) == (1, 0, 1)
        if plain and set(_pair(dilation)) == {1}:
            return axis
    raise CheckpointError(_REFUSED.format(name))


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
