"""Training a model with its gates on, for criteria that do not leave the weights alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sepprune_tp import GateSet
from sepprune_tp._modes import recurrent_gradients

__all__ = ["step", "trainable"]


@contextmanager
def trainable(gates: GateSet) -> Iterator[None]:
    """Gates on and gradients for the weights; the model stays in evaluation mode.

    Running statistics are those of the dense model, as in the package's search. Afterwards no
    parameter holds a gradient.
    """
    with gates, recurrent_gradients(gates.model):
        try:
            yield
        finally:
            gates.model.zero_grad(set_to_none=True)


def step(loss: Tensor, optimizer: torch.optim.Optimizer, clip: float) -> None:
    """One step of an optimizer, the gradient of each of its groups clipped to a norm.

    Args:
        loss: Scalar.
        optimizer: Its parameters are the only ones that move; gradients of others are dropped with
            the next call of theirs.
        clip: Norm.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], clip)
    optimizer.step()
