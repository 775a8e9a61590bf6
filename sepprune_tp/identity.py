"""What tells one model, one data set or one loss from another: short texts to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["data_identity", "fingerprint", "loss_identity"]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of the weights, to tell models apart."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def data_identity(source: Any) -> str | None:
    """A text that changes with the data, as far as the data say what they are.

    Args:
        source: A data set or batches. Those that have a method ``identity() -> str`` are asked;
            lists of batches are hashed; of other things with a length, that and the class count.

    Returns:
        The text; None where nothing can be told, which agrees with everything.
    """
    if hasattr(source, "identity"):
        told: str = source.identity()
        return told
    if isinstance(source, (list, tuple)):
        digest = hashlib.sha256()
        for part in _tensors(source):
            digest.update(f"{tuple(part.shape)}{part.dtype}".encode())
            flat = part.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()
    if hasattr(source, "__len__"):
        return f"{type(source).__qualname__} of {len(source)}"
    return None


def loss_identity(loss: Callable[..., Any]) -> str:
    """The name of a loss, and its settings and teacher where it has any."""
    if hasattr(loss, "identity"):
        told: str = loss.identity()
        return told
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []
