"""Normalisation over open channels only, without an activation-sized copy of the mask.

With weights w_c (the gates) and N = T * sum_c w_c, a group of channels has the statistics

    mu = sum_c w_c sum_t x_ct / N,    v = sum_c w_c q_c / N,    q_c = sum_t (x_ct - mu)^2,

which for 0/1 weights are those of the network without the closed channels. The gates enter only
where per-channel sums, (B, C) numbers, are pooled. As sum_c w_c sum_t (x_ct - mu) = 0, the variance
does not change to first order with mu, so

    dmu / dw_c = (sum_t x_ct - T mu) / N,    dv / dw_c = (q_c - T v) / N.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["pooled_frame_norm", "pooled_group_norm", "pooled_rms_norm"]


class _Standardise(torch.autograd.Function):
    """(x - mu) / sqrt(v + eps) * gain + bias; x (B, G, C, T), mask, gain and bias (G, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, gain: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        count = _open(mask.sum(1)) * x.shape[-1]  # (G,): N
        sums = x.sum(-1)  # (B, G, C)
        mean = ((sums * mask).sum(2) / count)[..., None, None]
        centred = x - mean
        squares = torch.linalg.vector_norm(centred, dim=-1).square_()
        variance = ((squares * mask).sum(2) / count)[..., None, None]
        inverse = torch.rsqrt(variance + eps)  # (B, G, 1, 1)
        ctx.save_for_backward(centred, mask, gain, sums, squares, mean, variance, inverse)
        return torch.addcmul(bias[..., None], centred, inverse * gain[..., None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, mask, gain, sums, squares, mean, variance, inverse = ctx.saved_tensors
        frames = centred.shape[-1]
        count = (_open(mask.sum(1)) * frames)[:, None]
        through_bias = gradient.sum(-1)  # (B, G, C)
        product = gradient * centred  # its memory then holds grad_x
        through_gain = product.sum(-1) * inverse.squeeze(-1)
        by_mean = -(through_bias * gain).sum(2, keepdim=True) * inverse.squeeze(-1)
        by_variance = (through_gain * gain).sum(2, keepdim=True) * inverse.squeeze(-1) ** 2 * -0.5
        grad_x = grad_mask = grad_gain = grad_bias = None
        if ctx.needs_input_grad[0]:
            share = mask / count
            grad_x = torch.addcmul(
                (by_mean * share)[..., None], gradient, inverse * gain[..., None], out=product
            ).addcmul_(centred, (2 * by_variance * share)[..., None])
        if ctx.needs_input_grad[1]:
            moved = sums - frames * mean.squeeze(-1)
            widened = squares - frames * variance.squeeze(-1)
            grad_mask = ((by_mean * moved + by_variance * widened) / count).sum(0)
        if ctx.needs_input_grad[2]:
            grad_gain = through_gain.sum(0)
        if ctx.needs_input_grad[3]:
            grad_bias = through_bias.sum(0)
        return grad_x, grad_mask, grad_gain, grad_bias, None


def _open(count: Tensor) -> Tensor:
    """Numbers of open channels to divide by; 1 where a sample closed all of them."""
    return torch.where(count > 0, count, 1)


def pooled_group_norm(
    x: Tensor, mask: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, groups: int = 1
) -> Tensor:
    """Group (or global) layer norm with statistics over open channels only.

    Args:
        x: Activation, shape (B, C, *).
        mask: Gate of each channel, shape (C,); a group that has none open is read by nobody, and
            only has to be finite.
        gain: Shape (C,) or None.
        bias: Shape (C,) or None.
        eps: Added to the variance.
        groups: Number of channel groups, each with statistics of its own.

    Returns:
        The normalised activation, shape (B, C, *), with the dtype of ``x``.
    """
    batch, channels = x.shape[:2]
    full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    with torch.autocast(x.device.type, enabled=False):
        weight = mask.to(full.dtype).view(groups, -1)
        scale = torch.ones_like(weight) if gain is None else gain.to(full.dtype).view(groups, -1)
        shift = torch.zeros_like(weight) if bias is None else bias.to(full.dtype).view(groups, -1)
        rows = full.reshape(batch, groups, channels // groups, -1)
        normed: Tensor = _Standardise.apply(rows, weight, scale, shift, eps)
    return normed.to(x.dtype).view(x.shape)


def pooled_frame_norm(
    x: Tensor, mask: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, axis: int
) -> Tensor:
    """Layer norm over the channels of each frame, open channels only.

    Args:
        x: Activation, channels on ``axis``.
        mask: Gate of each channel, shape (C,), likewise.
        gain: Shape (C,) or None.
        bias: Shape (C,) or None.
        eps: Added to the variance.
        axis: Channel axis.

    Returns:
        The normalised activation, shaped like ``x``.
    """
    full = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).transpose(axis, -1)
    with torch.autocast(x.device.type, enabled=False):
        weight = mask.to(full.dtype)
        weight = weight / _open(weight.sum())
        centred = full - (full @ weight).unsqueeze(-1)
        variance = (centred.square() @ weight).unsqueeze(-1)
        normed = centred * torch.rsqrt(variance + eps)
        if gain is not None:
            normed = normed * gain
        if bias is not None:
            normed = normed + bias
    return normed.transpose(axis, -1).to(x.dtype)


def pooled_rms_norm(
    x: Tensor, mask: Tensor, gain: Tensor | None, eps: float | None, axis: int
) -> Tensor:
    """Root-mean-square norm over the channels of each frame, open channels only.

    Args:
        x: Activation, channels on ``axis``.
        mask: Gate of each channel, shape (C,).
        gain: Shape (C,) or None.
        eps: Added to the mean square; None: the smallest step of the data type.
        axis: Channel axis.

    Returns:
        The normalised activation, shaped like ``x``.
    """
    full = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).transpose(axis, -1)
    with torch.autocast(x.device.type, enabled=False):
        weight = mask.to(full.dtype)
        power = (full.square() @ (weight / _open(weight.sum()))).unsqueeze(-1)
        normed = full * torch.rsqrt(power + (torch.finfo(x.dtype).eps if eps is None else eps))
        normed = normed if gain is None else normed * gain
    return normed.transpose(axis, -1).to(x.dtype)
