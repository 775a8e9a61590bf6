"""Models in which nothing hides behind a zero: random biases, affines and running statistics."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["randomise"]


def randomise(model: nn.Module, scale: float) -> nn.Module:
    """Disturb what training would have moved away from its first value.

    Args:
        model: Changed in place. Torch's global generator is drawn from: seed it first.
        scale: Standard deviation of what is added to biases and affines (and to matrices that are
            all zero), and of running means; running variances are between 0.5 and 2.

    Returns:
        The model.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1 or not parameter.any():
                parameter.add_(scale * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, scale)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model
