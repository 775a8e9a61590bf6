"""Train depthwise convolutions faster on a processor.

Letters: B batch, C channels, T time, K kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["fast_depthwise"]


@contextmanager
def fast_depthwise() -> Iterator[None]:
    """Compute depthwise ``Conv1d`` in training in the way that is fastest on a processor.

    The gradient in bfloat16 takes 2 to 5 times as long as in float32, and that of dilated ones 3
    times as long as that of a sum of K shifted copies, which a compiler fuses. So they are computed
    in float32 at least, the dilated ones as such a sum: the same function, rounded once at its end.
    """
    original = nn.Conv1d.forward

    def forward(self: nn.Conv1d, x: Tensor) -> Tensor:
        depthwise = self.groups == self.in_channels == self.out_channels > 1
        if not (depthwise and self.training and x.device.type == "cpu"):
            return original(self, x)
        with torch.autocast("cpu", enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            plain = self.padding_mode == "zeros" and isinstance(self.padding, tuple)
            if plain and self.dilation[0] > 1 and self.stride[0] == 1:
                found = _sum_of_shifts(self, wide)
            else:
                found = original(self, wide)
        return found.to(x.dtype)

    nn.Conv1d.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Conv1d.forward = original  # type: ignore[method-assign]


def _sum_of_shifts(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """Depthwise convolution of (B, C, T), each tap of the kernel at a time."""
    taps, dilation, padding = layer.kernel_size[0], layer.dilation[0], int(layer.padding[0])
    x = functional.pad(x, (padding, padding))
    length = x.shape[-1] - dilation * (taps - 1)
    shifted = (x[..., k * dilation : k * dilation + length] for k in range(taps))
    terms = [layer.weight[:, 0, k, None] * part for k, part in enumerate(shifted)]
    if layer.bias is not None:
        terms.append(layer.bias[:, None])
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
