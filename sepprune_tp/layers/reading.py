"""Reading gated channels with frozen weights: the gradient of a gate without that of the weights.

With y = W (m * x) the gradient of gate i is sum_t x_it (W^T dy)_it, and W^T dy is computed for the
gradient of x anyway; the weight gradient, as costly as the layer itself, is not needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["can_read_convolution", "read_convolution", "read_linear"]


class _Convolution(torch.autograd.Function):
    """Convolution of gated channels; x (B, C, *), mask (C,), weight frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, options: Any
    ) -> Tensor:
        shape = (1, -1) + (1,) * (weight.dim() - 2)
        ctx.save_for_backward(x, mask, weight)
        ctx.options = options
        return torch.convolution(x, weight * mask.view(shape), bias, *options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, weight = ctx.saved_tensors
        read, _, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *ctx.options, [True, False, False]
        )
        shape = (1, -1) + (1,) * (x.dim() - 2)
        product = read * x  # its memory then holds grad_x
        grad_mask = product.flatten(2).sum(-1).sum(0)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mul(read, mask.view(shape), out=product)
        return grad_x, grad_mask, None, None, None


class _Linear(torch.autograd.Function):
    """Linear layer on gated features; x (*, C), mask (C,), weight frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, mask, weight)
        return nn.functional.linear(x, weight * mask, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, weight = ctx.saved_tensors
        read = gradient @ weight
        grad_mask = (read * x).flatten(0, -2).sum(0)
        grad_x = read * mask if ctx.needs_input_grad[0] else None
        return grad_x, grad_mask, None, None


def can_read_convolution(module: Any, mask: Tensor) -> bool:
    """Whether a convolution has frozen weights, a learned mask and plain zero padding."""
    weight, padding = module.weight, module.padding
    return (
        mask.requires_grad
        and mask.dim() == 1
        and not weight.requires_grad
        and not module.transposed
        and module.groups == 1
        and module.padding_mode == "zeros"
        and isinstance(padding, tuple)
    )


def read_convolution(module: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Run a convolution on gated channels; see :func:`can_read_convolution`.

    Args:
        module: The convolution.
        x: Input, shape (B, C, *).
        mask: Gate of each input channel, shape (C,).

    Returns:
        The output of the layer.
    """
    options = (module.stride, module.padding, module.dilation, False, module.output_padding, 1)
    x, mask, weight, bias = _cast(x, mask, module)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Convolution.apply(x, mask, weight, bias, options)
    return out


def read_linear(module: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Run a linear layer with frozen weights on gated features; x (*, C), mask (C,)."""
    x, mask, weight, bias = _cast(x, mask, module)
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _Linear.apply(x, mask, weight, bias)
    return out


def _cast(x: Tensor, mask: Tensor, module: Any) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Everything in the data type that the layer would compute in."""
    weight: Any = module.weight
    bias: Any = module.bias
    dtype = weight.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    cast = None if bias is None else bias.to(dtype)
    return x.to(dtype), mask.to(device=x.device, dtype=dtype), weight.to(dtype), cast
