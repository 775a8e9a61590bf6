"""One way to read a model from disk, whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from sepprune_tp.architectures.asteroid_models import load_serialized
from sepprune_tp.checkpoint import load_pruned
from sepprune_tp.errors import CheckpointError

__all__ = ["load_model"]

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"


def load_model(path: str | os.PathLike[str], device: str | torch.device | None = None) -> nn.Module:
    """Read a model from a file of ``save_pruned`` or of Asteroid's ``serialize()``.

    Args:
        path: The file. Its content decides, not its name.
        device: Where the tensors go; the CPU if None.

    Returns:
        The model in eval mode.

    Raises:
        CheckpointError: If the file is missing or neither of the two.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"{file} is not a file. Give a file of save_pruned, or what "
            "torch.save(model.serialize(), path) wrote for an Asteroid model."
        )
    with file.open("rb") as opened:
        start = opened.read(9)
    # A safetensors file starts with the length of its JSON header, which may be any byte.
    pickled = start[8:] != b"{" and start.startswith((ZIP_START, PICKLE_START))
    model = load_serialized(file) if pickled else load_pruned(file)
    return model if device is None else model.to(device)
