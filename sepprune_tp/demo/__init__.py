"""What ships for the demo: a small trained Conv-TasNet and test mixtures of unseen speakers.

``scripts/make_demo_assets.py`` made the files under ``assets/``. Training mixtures are not
shipped: ``demo_training_set`` synthesises the training speakers anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sepprune_tp.data.mixing import MixtureDataset
from sepprune_tp.demo.synthesis import SAMPLE_RATE, load_or_synthesise
from sepprune_tp.demo.voices import TRAIN_VOICES
from sepprune_tp.errors import DataError, require

__all__ = ["ASSETS", "demo_model", "demo_model_card", "demo_test_set", "demo_training_set"]

ASSETS = Path(__file__).parent / "assets"
"""Folder of ``model.safetensors``, ``model.json`` and ``test/{mix,s1,s2}/*.flac``."""

_CORPUS_SEED = 2  # of the speech itself; the sentences are not those of the shipped model
_SENTENCES = 15  # per speaker: half an hour of speech, about five seconds to synthesise


def demo_model_card(assets: str | os.PathLike[str] = ASSETS) -> dict[str, Any]:
    """Read what is known about the shipped model.

    Args:
        assets: Folder of the assets.

    Returns:
        ``class`` and ``args`` to rebuild it, ``figures`` on the test mixtures, how it was trained.

    Raises:
        DataError: If the file is missing or not JSON.
    """
    path = Path(assets) / "model.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"The demo's {path} cannot be read ({error}). {_REMEDY}") from error
    return card


def demo_model(assets: str | os.PathLike[str] = ASSETS) -> nn.Module:
    """Rebuild the dense model of the demo, an Asteroid Conv-TasNet for two speakers at 8 kHz.

    Args:
        assets: Folder of the assets.

    Returns:
        The model in eval mode: mixtures (B, T) in, estimates (B, S, T) out.

    Raises:
        DataError: If an asset is missing or damaged.
        MissingExtraError: If Asteroid or safetensors is not installed.
    """
    card = demo_model_card(assets)
    models = require("asteroid.models", "asteroid", "The demo's model")
    safetensors = require("safetensors", "files", "Reading the demo's model")
    tensors = require("safetensors.torch", "files", "Reading the demo's model")
    path = Path(assets) / "model.safetensors"
    try:
        model: nn.Module = getattr(models, card["class"])(**card["args"])
        model.load_state_dict(tensors.load_file(path))
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataError(
            f"The demo's model cannot be rebuilt from {path} ({error}). {_REMEDY}"
        ) from error
    return model.eval()


def demo_test_set(assets: str | os.PathLike[str] = ASSETS) -> list[tuple[Tensor, Tensor]]:
    """Read the test mixtures: two speakers each, none of them in the training set.

    Args:
        assets: Folder of the assets.

    Returns:
        Pairs of a mixture (T,) and its sources (S, T), float32 at 8 kHz, in order of file name.

    Raises:
        DataError: If files are missing, or of another sample rate.
        MissingExtraError: If soundfile is not installed.
    """
    folder = Path(assets) / "test"
    names = sorted(path.name for path in (folder / "mix").glob("*.flac"))
    if not names:
        raise DataError(f"The demo has no test mixtures: no {folder}/mix/*.flac. {_REMEDY}")
    test_set = []
    for name in names:
        mixture, *sources = (_read(folder / part / name) for part in ("mix", "s1", "s2"))
        if any(source.shape != mixture.shape for source in sources):
            raise DataError(f"{name} differs in length between mix, s1 and s2 of {folder}.")
        test_set.append((mixture, torch.stack(sources)))
    return test_set


def demo_training_set(
    cache_dir: str | os.PathLike[str], size: int = 100_000, seed: int = 0
) -> MixtureDataset:
    """Synthesise the training speakers and mix them in pairs.

    Args:
        cache_dir: Where the speech is kept for the next time (30 MB).
        size: Number of mixtures.
        seed: Of the mixtures; the speech is the same for all seeds.

    Returns:
        Two-second mixtures of two speakers at 8 kHz.

    Raises:
        MissingExtraError: If ``espeakng-loader`` or SciPy is not installed.
        DataError: If espeak-ng fails or the cache is damaged.
    """
    corpus = load_or_synthesise(cache_dir, TRAIN_VOICES, _SENTENCES, _CORPUS_SEED)
    return MixtureDataset(corpus, sample_rate=SAMPLE_RATE, seconds=2.0, size=size, seed=seed)


_REMEDY = (
    "Reinstall sepprune-tp, or make the assets anew: python scripts/make_demo_assets.py (in a "
    "checkout)."
)


def _read(path: Path) -> Tensor:
    soundfile = require("soundfile", "train", "Reading the demo's mixtures")
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"The demo's {path} cannot be read ({error}). {_REMEDY}") from error
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise DataError(f"{path} is not mono at {SAMPLE_RATE} Hz. {_REMEDY}")
    return torch.from_numpy(np.asarray(samples, dtype=np.float32))
