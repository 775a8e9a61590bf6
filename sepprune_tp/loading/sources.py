"""One way to a model, wherever it is and whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from sepprune_tp.architectures.asteroid_checkpoints import load_asteroid
from sepprune_tp.checkpoint import load_pruned
from sepprune_tp.errors import CheckpointError
from sepprune_tp.loading.factories import build_from_factory, is_factory
from sepprune_tp.loading.fetching import fetch, is_hub_name, is_url

__all__ = ["load_model"]

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"


def load_model(
    source: str | os.PathLike[str], device: str | torch.device | None = None
) -> nn.Module:
    """Get a model. Nothing in a file is executed, whatever it claims to be.

    Args:
        source: One of

            - a file of ``save_pruned`` or of Asteroid (``serialize()`` of any version, a checkpoint
              of its training); its content decides, not its name;
            - ``owner/name`` or ``owner/name@revision`` on the Hugging Face hub, one of Asteroid's
              names for models on Zenodo, or an address; from the caches if there is no network;
            - ``module:function`` or ``module:function:argument``, which builds it;
            - ``FILE@module:function``: a file of ``save_pruned`` of a model that is not Asteroid's,
              and what builds that model as it was before;
            - ``demo``, the model that ships with this package.
        device: Where the tensors go; the CPU if None.

    Returns:
        The model in eval mode.

    Raises:
        CheckpointError: If there is no such model, or its file is not of a kind named above.
        InputError: If a function does not give a model.
        MissingExtraError: If a package is missing that the model needs.
    """
    model = _found(source)
    return model if device is None else model.to(device)


def _found(source: str | os.PathLike[str]) -> nn.Module:
    file = Path(source).expanduser()
    if source == "demo":
        from sepprune_tp.demo import demo_model

        return demo_model()
    if file.is_file():
        return _read(file)
    text = os.fspath(source)
    name, _, factory = text.rpartition("@")
    if is_factory(factory) and Path(name).expanduser().is_file():
        return load_pruned(Path(name).expanduser(), model=build_from_factory(factory))
    if is_factory(text):
        return build_from_factory(text)
    if is_url(text) or (is_hub_name(text) and not file.exists()):
        fetched = fetch(text)
        return _read(fetched.path, fetched.sample_rate)
    raise CheckpointError(
        f"{file} is {'a folder' if file.is_dir() else 'not a file'}. Give a file of save_pruned, "
        "what torch.save(model.serialize(), path) wrote for an Asteroid model, a name on a hub "
        "(owner/name), module:function, or demo."
    )


def _read(file: Path, sample_rate: float | None = None) -> nn.Module:
    """A model from a file of one of the two kinds."""
    try:
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be opened ({error}).") from error
    # A safetensors file starts with the length of its JSON header, which may be any byte.
    pickled = start[8:] != b"{" and start.startswith((ZIP_START, PICKLE_START))
    return load_asteroid(file, sample_rate) if pickled else load_pruned(file)
