"""Dense models: trained once, kept with a description, found again by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.files import make_folder, written
from sepprune_tp.recovery import finetune

from .config import Experiment
from .data import Corpus
from .records import Record, environment, scores, write_atomically
from .zoo import build

__all__ = [
    "FOLDER",
    "Dense",
    "description_of",
    "fast_global_norm",
    "load",
    "save",
    "train",
    "weights_of",
]

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"


@dataclass(frozen=True, eq=False)
class Dense:
    """A trained dense model.

    Attributes:
        name: Of the zoo.
        model: In evaluation mode.
        sha256: Of its file.
        description: What is known of its training.
    """

    name: str
    model: nn.Module
    sha256: str
    description: Mapping[str, Any]

    @property
    def example(self) -> Tensor:
        """One second (1, T), on which MACs are counted."""
        return torch.zeros(1, int(self.description["sample_rate"]))


@contextmanager
def fast_global_norm() -> Iterator[None]:
    """Compute Asteroid's global layer norm with the group-norm kernel: the same layer, faster.

    One group over all channels is the same mean and variance; outputs differ by 5e-8.
    """
    from asteroid.masknn.norms import GlobLN

    original = GlobLN.forward

    def forward(self: Any, x: Tensor, EPS: float = 1e-8) -> Tensor:
        return nn.functional.group_norm(x, 1, self.gamma, self.beta, EPS)

    GlobLN.forward = forward
    try:
        yield
    finally:
        GlobLN.forward = original


def weights_of(name: str, corpus: str, folder: Path = FOLDER) -> Path:
    """Where a dense model's weights are."""
    return folder / f"{corpus}_{name.lower()}.safetensors"


def description_of(name: str, corpus: str, folder: Path = FOLDER) -> Record:
    """What is known of a dense model's training; raises ``FileNotFoundError`` if there is none."""
    found: Record = json.loads(weights_of(name, corpus, folder).with_suffix(".json").read_text())
    return found


def train(
    name: str,
    corpus: Corpus,
    experiment: Experiment,
    work: Path,
    folder: Path = FOLDER,
    devices: int = 1,
) -> Record:
    """Train a dense model, score it, and write weights and a JSON description beside them.

    A killed training goes on from its last validation.

    Args:
        name: Of the zoo.
        corpus: To train on.
        experiment: Of kind ``dense``; its options are arguments of ``finetune``, and those of one
            model, by name, come before them.
        work: Where the running training keeps what it resumes from.
        folder: For weights and description.
        devices: Lightning's number of devices.

    Returns:
        The description.
    """
    options: dict[str, Any] = dict(experiment.options)
    own = options.pop("models", {}).get(name, {})
    options |= own
    seconds = float(options.pop("seconds", 2.0))
    model = build(name)
    with fast_global_norm():
        result = finetune(
            model,
            corpus.train(0, seconds),
            corpus.validation(seconds=seconds),
            checkpoint_dir=work,
            devices=devices,
            **{"early_stop": 0, "schedule": "cosine", **options},
        )
        test = corpus.test(experiment.test["mixtures"], experiment.test["seconds"])
        found = evaluate(model, test, sample_rate=corpus.sample_rate, batch_size=10)
    description = {
        "model": name,
        "params": found.params,
        "data": corpus.name,
        "data_sha256": corpus.sha256,
        "sample_rate": corpus.sample_rate,
        "test": dict(experiment.test),
        **{key: value for key, value in scores(found).items() if key != "per_mixture"},
        "validation_si_sdr": round(result.si_sdr, 3),
        "steps": result.steps,
        "training": {"seconds": seconds, **options},
        "seconds": round(result.seconds, 1),
        "history": result.history,
        **environment(),
    }
    save(model, weights_of(name, corpus.name, folder), description)
    return description


def save(model: nn.Module, weights: Path, description: Mapping[str, Any]) -> None:
    """Write weights and description, each whole or not at all."""
    make_folder(weights.parent)
    with written(weights) as scratch:
        save_model(model, str(scratch))  # knows tensors that two layers share
    write_atomically(weights.with_suffix(".json"), json.dumps(description, indent=1) + "\n")


def load(name: str, corpus: str, folder: Path = FOLDER) -> Dense:
    """The trained model of a name.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    path = weights_of(name, corpus, folder)
    try:
        description = description_of(name, corpus, folder)
        model = build(description["model"])
        load_model(model, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:
        raise CheckpointError(
            f"No usable dense model in {path}: {error}. Train one with: "
            f"python -m benchmarks run dense --model {name}"
        ) from error
    return Dense(name, model.eval(), digest, {**description})
