"""The dense Conv-TasNet of the FSDD benchmark: how it is built, trained, kept and found again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _records import by_pair, data_hash, environment, scores, write_atomically
from asteroid.masknn.norms import GlobLN
from asteroid.models import ConvTasNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.mixtures import MixtureDataset, load_recordings
from sepprune_tp.recovery import finetune

__all__ = [
    "MODEL_ARGS",
    "build",
    "fast_global_norm",
    "load",
    "test_set",
    "train",
    "train_set",
    "validation_set",
]

MODEL_ARGS: dict[str, Any] = {
    "n_src": 2,
    "n_filters": 128,
    "kernel_size": 16,
    "stride": 8,
    "bn_chan": 64,
    "hid_chan": 128,
    "skip_chan": 64,
    "n_blocks": 6,
    "n_repeats": 2,
    "mask_act": "relu",
    "sample_rate": 8000,
}
TEST_SEED, TEST_SECONDS = 20, 3.0
VALIDATION_SEED = 10


def build(seed: int = 0, **args: Any) -> ConvTasNet:
    """An untrained model whose weights follow from the seed; global random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvTasNet(**{**MODEL_ARGS, **args})


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
    data: Path, weights: Path, work: Path, *, minutes: float, batch_size: int, lr: float
) -> dict[str, Any]:
    """Train the dense model, evaluate it, and write weights and a JSON description beside them.

    Args:
        data: Folder in the layout of the Free Spoken Digit Dataset.
        weights: The ``.safetensors`` file to write.
        work: Where the running training keeps what it resumes from.
        minutes: Wall-clock time of training; the learning rate falls along with it.
        batch_size: Mixtures of 2 s in a step.
        lr: Learning rate at the start.

    Returns:
        The description.
    """
    model = build()
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
            compile=True,
            checkpoint_dir=work,
        )
    mixtures = test_set(data)
    with fast_global_norm():
        evaluation = evaluate(model, mixtures, sample_rate=mixtures.sample_rate, batch_size=10)
    description = {
        "model": "ConvTasNet",
        "model_args": MODEL_ARGS,
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
    """Write weights and description, each to a temporary name first."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    temporary = weights.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, weights)
    write_atomically(weights.with_suffix(".json"), json.dumps(description, indent=1) + "\n")


def load(weights: Path) -> tuple[ConvTasNet, dict[str, Any]]:
    """The trained model, in evaluation mode, and its description.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    try:
        description = json.loads(weights.with_suffix(".json").read_text())
        model = build(**description["model_args"])
        model.load_state_dict(load_file(weights))
    except Exception as error:
        raise CheckpointError(
            f"No usable dense model in {weights}: {error}. Train one with: "
            "python benchmarks/fsdd.py train"
        ) from error
    return model.eval(), description
