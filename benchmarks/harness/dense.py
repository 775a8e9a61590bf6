"""Dense models: trained once, kept with a description, found again by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from sepprune_tp.errors import CheckpointError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.files import make_folder, written
from sepprune_tp.files.torch_archives import read_plain
from sepprune_tp.recovery import RecoverySettings, finetune, fingerprint
from sepprune_tp.recovery.state import RunState, copied

from .config import Experiment
from .data import TEST_SEED, VALIDATION_SEED, Corpus
from .depthwise import fast_depthwise
from .records import Record, environment, scores, write_atomically
from .zoo import build

__all__ = [
    "FOLDER",
    "Dense",
    "asked",
    "description_of",
    "fast_global_norm",
    "keep",
    "load",
    "progress",
    "save",
    "train",
    "weights_of",
]

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"
TRAIN_SEED = 0
DEFAULTS = {"early_stop": 0, "schedule": "cosine"}


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

    A killed training resumes from its state in ``work``; where that is lost, from the weights that
    :func:`keep` wrote, with a new optimizer.

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
    seconds, options = asked(name, experiment)
    model = build(name)
    _take_up(name, corpus, experiment, work, folder)
    with fast_global_norm(), fast_depthwise():
        result = finetune(
            model,
            corpus.train(TRAIN_SEED, seconds),
            corpus.validation(seconds=seconds),
            checkpoint_dir=work,
            devices=devices,
            **{**DEFAULTS, **options},
        )
    trained = {
        "validation_si_sdr": round(result.si_sdr, 3),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "history": result.history,
    }
    return _describe(name, model, corpus, experiment, folder, trained)


def keep(
    name: str, corpus: Corpus, experiment: Experiment, work: Path, folder: Path = FOLDER
) -> Record:
    """Write the best weights that a training in progress has reached, and their description.

    The description says ``"finished": false``, and ``steps`` and ``seconds`` of these weights;
    those of the training so far are under ``reached``. Arguments are those of :func:`train`.

    Returns:
        The description.

    Raises:
        FileNotFoundError: If no training is in progress in ``work``.
    """
    if not (work / "last.pt").exists():
        raise FileNotFoundError(f"no training of {name} is in progress in {work}")
    model = build(name)
    state = RunState.begin(model, *_run(name, model, experiment), work, True, {})
    model.load_state_dict(state.best)
    best = min(state.history, key=lambda record: record["val_loss"])
    trained = {
        "validation_si_sdr": round(best["si_sdr"], 3),
        "steps": int(best["step"]),
        "seconds": best["seconds"],
        "finished": False,
        "reached": {"steps": state.step, "seconds": round(state.seconds, 1)},
        "history": [record for record in state.history if record["step"] <= best["step"]],
    }
    return _describe(name, model, corpus, experiment, folder, trained)


def progress(name: str, work: Path) -> str:
    """Return how far a training in progress is, in a few words; empty if there is none."""
    if not (work / "last.pt").exists():
        return ""
    state = read_plain(work / "last.pt")
    ratios = [record["si_sdr"] for record in state["history"]]
    return (
        f"{name}: step {state['step']} of {state['settings']['steps']}, "
        f"{state['seconds'] / 3600:.2f} h, validation SI-SDR {ratios[-1]:.2f} dB, "
        f"best {max(ratios):.2f} dB"
    )


def asked(name: str, experiment: Experiment) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a training mixture, and the arguments of ``finetune``."""
    options = dict(experiment.options)
    own = options.pop("models", {}).get(name, {})
    options |= own
    return float(options.pop("seconds", 2.0)), options


def _run(name: str, model: nn.Module, experiment: Experiment) -> tuple[dict[str, Any], str]:
    """What tells a run from others: its settings, and the weights that it began with."""
    options = {**DEFAULTS, **asked(name, experiment)[1]}
    known = {field.name for field in fields(RecoverySettings)}
    settings = RecoverySettings(**{k: v for k, v in options.items() if k in known})
    return asdict(settings), fingerprint(model)


def _take_up(name: str, corpus: Corpus, experiment: Experiment, work: Path, folder: Path) -> None:
    """Let a training without a state in ``work`` resume from the weights that were kept."""
    if (work / "last.pt").exists() or not weights_of(name, corpus.name, folder).exists():
        return
    kept = load(name, corpus.name, folder)
    told = kept.description
    if told.get("finished", True):
        return
    if told["data_sha256"] != corpus.sha256:
        raise CheckpointError(
            f"{weights_of(name, corpus.name, folder)} was trained on other data than there is now. "
            "Delete it to train from random weights."
        )
    weights = copied(kept.model.state_dict())
    RunState(
        *_run(name, build(name), experiment),
        best=weights,
        weights=weights,
        history=told["history"],
        step=told["steps"],
        seconds=told["seconds"],
    ).save(work)


def _describe(
    name: str,
    model: nn.Module,
    corpus: Corpus,
    experiment: Experiment,
    folder: Path,
    trained: Record,
) -> Record:
    """Score a model, and write it with all that is known of its training."""
    seconds, options = asked(name, experiment)
    test = corpus.test(experiment.test["mixtures"], experiment.test["seconds"])
    with fast_global_norm():
        found = evaluate(model, test, sample_rate=corpus.sample_rate, batch_size=10)
        held_out = corpus.validation(seconds=seconds)
        validated = evaluate(model, held_out, sample_rate=corpus.sample_rate, batch_size=10)
    description = {
        "model": name,
        "params": found.params,
        "data": corpus.name,
        "data_sha256": corpus.sha256,
        "seeds": {"train": TRAIN_SEED, "validation": VALIDATION_SEED, "test": TEST_SEED},
        "sample_rate": corpus.sample_rate,
        "test": dict(experiment.test),
        **{key: value for key, value in scores(found).items() if key != "per_mixture"},
        "validation_si_sdri": round(validated.si_sdri, 3),
        "training": {"seconds": seconds, **options},
        **trained,
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
