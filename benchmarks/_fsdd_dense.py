"""The dense models of the FSDD benchmark: how they are built, trained, kept and found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _records import by_pair, data_hash, environment, scores, write_atomically
from asteroid import models
from asteroid.masknn.norms import GlobLN
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from sepprune_tp.data import MixtureDataset, load_recordings
from sepprune_tp.errors import CheckpointError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.files import make_folder, written
from sepprune_tp.recovery import finetune

__all__ = [
    "MODELS",
    "build",
    "fast_global_norm",
    "load",
    "test_set",
    "train",
    "train_set",
    "validation_set",
]

_COMMON = {"n_src": 2, "kernel_size": 16, "stride": 8, "mask_act": "relu", "sample_rate": 8000}
MODELS: dict[str, dict[str, Any]] = {
    "ConvTasNet": {
        **_COMMON,
        "n_filters": 128,
        "bn_chan": 64,
        "hid_chan": 128,
        "skip_chan": 64,
        "n_blocks": 6,
        "n_repeats": 2,
    },
    "SuDORMRFImprovedNet": {
        **_COMMON,
        "n_filters": 128,
        "bn_chan": 64,
        "num_blocks": 6,
        "upsampling_depth": 4,
    },
    "DPRNNTasNet": {
        **_COMMON,
        "n_filters": 64,
        "bn_chan": 64,
        "hid_size": 64,
        "n_repeats": 2,
        "chunk_size": 64,
    },
}
"""Arguments of Asteroid's classes, by class name."""
TEST_SEED, TEST_SECONDS = 20, 3.0
VALIDATION_SEED = 10


def build(name: str = "ConvTasNet", seed: int = 0, **args: Any) -> nn.Module:
    """An untrained model whose weights follow from the seed; global random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: nn.Module = getattr(models, name)(**{**MODELS[name], **args})
        return built


@contextmanager
def fast_global_norm() -> Iterator[None]:
    """Compute Asteroid's global layer norm with the group-norm kernel: the same layer, faster.

    One group over all channels is the same mean and variance; outputs differ by 5e-8.
    """
    original = GlobLN.forward

    def forward(self: Any, x: Tensor, EPS: float = 1e-8) -> Tensor:
        return nn.functional.group_norm(x, 1, self.gamma, self.beta, EPS)

    GlobLN.forward = forward
    try:
        yield
    finally:
        GlobLN.forward = original


def train_set(data: Path, *, seconds: float = 2.0, seed: int = 0) -> MixtureDataset:
    """Endless training mixtures."""
    return MixtureDataset(load_recordings(data, "fit"), seconds=seconds, seed=seed)


def validation_set(data: Path, *, size: int = 64) -> MixtureDataset:
    """Validation mixtures, of recordings that neither training nor test hears."""
    recordings = load_recordings(data, "val")
    return MixtureDataset(recordings, seconds=2.0, seed=VALIDATION_SEED, size=size)


def test_set(data: Path, size: int = 300) -> MixtureDataset:
    """The fixed test mixtures: same speakers as in training, other recordings."""
    recordings = load_recordings(data, "test")
    return MixtureDataset(recordings, seconds=TEST_SECONDS, seed=TEST_SEED, size=size)


def train(
    name: str,
    data: Path,
    weights: Path,
    work: Path,
    *,
    minutes: float,
    batch_size: int,
    lr: float,
) -> dict[str, Any]:
    """Train a dense model, evaluate it, and write weights and a JSON description beside them.

    Args:
        name: One of ``MODELS``.
        data: Folder in the layout of the Free Spoken Digit Dataset.
        weights: The ``.safetensors`` file to write.
        work: Where the running training keeps what it resumes from.
        minutes: Wall-clock time of training; the learning rate falls along with it.
        batch_size: Mixtures of 2 s in a step.
        lr: Learning rate at the start.

    Returns:
        The description.
    """
    model = build(name)
    with fast_global_norm():
        result = finetune(
            model,
            train_set(data),
            validation_set(data),
            steps=1_000_000,
            max_minutes=minutes,
            batch_size=batch_size,
            lr=lr,
            schedule="cosine",
            val_every=250,
            early_stop=0,
            precision="bf16-mixed",
            compile=name
            != "DPRNNTasNet",  # compiling gains nothing where recurrences take the time
            checkpoint_dir=work,
        )
    mixtures = test_set(data)
    with fast_global_norm():
        evaluation = evaluate(model, mixtures, sample_rate=mixtures.sample_rate, batch_size=10)
    description = {
        "model": name,
        "model_args": MODELS[name],
        "params": evaluation.params,
        "data": "fsdd",
        "data_sha256": data_hash(data),
        "test": {"mixtures": len(mixtures), "seconds": TEST_SECONDS, "seed": TEST_SEED},
        **scores(evaluation),
        "by_pair": by_pair(evaluation, mixtures),
        "validation_si_sdr": result.si_sdr,
        "steps": result.steps,
        "batch_size": batch_size,
        "lr": lr,
        "seconds": round(result.seconds, 1),
        "history": result.history,
        **environment(),
    }
    save(model, weights, description)
    return description


def save(model: nn.Module, weights: Path, description: dict[str, Any]) -> None:
    """Write weights and description, each whole or not at all."""
    make_folder(weights.parent)
    with written(weights) as scratch:
        save_model(model, str(scratch))  # knows tensors that two layers share
    write_atomically(weights.with_suffix(".json"), json.dumps(description, indent=1) + "\n")


def load(weights: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model, in evaluation mode, and its description.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    try:
        description = json.loads(weights.with_suffix(".json").read_text())
        model = build(description["model"], **description["model_args"])
        load_model(model, weights)
    except Exception as error:
        raise CheckpointError(
            f"No usable dense model in {weights}: {error}. Train one with: "
            "python benchmarks/fsdd.py train"
        ) from error
    return model.eval(), description
