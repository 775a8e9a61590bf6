"""Normalisation over open channels only, without an activation-sized copy for the mask.

Statistics are taken of each channel over its own positions first, (B, C) numbers, and then pooled
over channels with the mask as weight: mean = sum_c m_c mu_c / sum_c m_c, and by the law of total
variance var = sum_c m_c (var_c + (mu_c - mean)^2) / sum_c m_c. With a 0/1 mask that is the
statistic of the network without the closed channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pooled_frame_norm", "pooled_group_norm"]


def pooled_group_norm(
    x: Tensor, mask: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, groups: int = 1
) -> Tensor:
    """Group (or global) layer norm with statistics over open channels only.

    Args:
        x: Activation, shape (B, C, *).
        mask: Gate of each channel, shape (C,); every group has at least one open channel.
        gain: Shape (C,) or None.
        bias: Shape (C,) or None.
        eps: Added to the variance.
        groups: Number of channel groups, each with statistics of its own.

    Returns:
        The normalised activation, shape (B, C, *), with the dtype of ``x``.
    """
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
    full = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    variances, means = torch.var_mean(full, dim=-1, correction=0)  # each (B, C)
    batch, channels = means.shape
    means, variances = (s.view(batch, groups, -1) for s in (means, variances))
    weight = mask.to(means.dtype).view(groups, -1)
    weight = weight / weight.sum(1, keepdim=True)
    mean = (means * weight).sum(2, keepdim=True)
    variance = ((variances + (means - mean).square()) * weight).sum(2, keepdim=True)
    scale = torch.rsqrt(variance + eps).expand(batch, groups, channels // groups)
    shift = -mean * scale
    scale, shift = scale.reshape(batch, channels), shift.reshape(batch, channels)
    if gain is not None:
        scale, shift = scale * gain, shift * gain
    if bias is not None:
        shift = shift + bias
    return torch.addcmul(shift.unsqueeze(-1), full, scale.unsqueeze(-1)).to(x.dtype).view(x.shape)


def pooled_frame_norm(
    x: Tensor, mask: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, axis: int
) -> Tensor:
    """Layer norm over the channels of each frame, open channels only.

    Args:
        x: Activation, channels on ``axis``.
        mask: Gate of each channel, shape (C,), at least one open.
        gain: Shape (C,) or None.
        bias: Shape (C,) or None.
        eps: Added to the variance.
        axis: Channel axis.

    Returns:
        The normalised activation, shaped like ``x``.
    """
    full = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).transpose(axis, -1)
    weight = mask.to(full.dtype)
    weight = weight / weight.sum()
    centred = full - (full @ weight).unsqueeze(-1)
    variance = (centred.square() @ weight).unsqueeze(-1)
    normed = centred * torch.rsqrt(variance + eps)
    if gain is not None:
        normed = normed * gain
    if bias is not None:
        normed = normed + bias
    return normed.transpose(axis, -1).to(x.dtype)
