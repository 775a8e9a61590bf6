"""Use a model for a while and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["device_of", "eval_mode", "recurrent_gradients", "training_mode"]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own mode back, also after an error."""
    with _own_modes(model):
        model.eval()
        yield


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode inside, unless the model is in it already; afterwards as :func:`eval_mode`.

    Of a model in training mode, parts in eval mode are meant to be: batch norms that are frozen.
    """
    with _own_modes(model):
        if not model.training:
            model.train()
        yield


@contextmanager
def _own_modes(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def recurrent_gradients(model: nn.Module) -> Iterator[None]:
    """Without cuDNN if the model has recurrent layers: it has no backward pass in eval mode."""
    cudnn = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = before and not any(isinstance(m, nn.RNNBase) for m in model.modules())
    try:
        yield
    finally:
        cudnn.enabled = before


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU for a model that has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
