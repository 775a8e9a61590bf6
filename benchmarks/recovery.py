"""What brings a pruned separator back: statistics, least squares, training, a teacher; each alone.

``python benchmarks/recovery.py`` prunes the trained model of the FSDD benchmark, repairs it in each
way and scores it; finished runs are not repeated.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import _fsdd_dense as dense
import typer
from _fsdd_compare import Settings, opened
from _records import Records, environment, scores, write_atomically
from _recovery_table import page
from fsdd import CHECKPOINTS, DATA, RESULTS, WORK
from torch import nn

from sepprune_tp.data import MixtureDataset, batches
from sepprune_tp.distillation import Distillation
from sepprune_tp.evaluate import evaluate
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune
from sepprune_tp.recovery.recalibration import recalibrate
from sepprune_tp.recovery.reconstruction import reconstruct

CRITERIA = ["GroupTaylorImportance", "sepprune"]
KEYS = ("experiment", "model", "criterion", "budget", "seed", "method")
FIT_BATCHES, FIT_SIZE = 8, 4  # of 2 s
FEATURES = ["masker"]


@dataclass(frozen=True)
class Method:
    """A way to recover: something at once, then training.

    Attributes:
        first: ``""``, ``"recalibrate"``, ``"dense"``, ``"pruned"`` or ``"all"``: least squares on
            the inputs of the dense or the pruned layers; ``"all"`` fits norms and depthwise
            convolutions as well.
        loss: ``""`` (no training), ``"task"``, ``"waveform"``, ``"both"`` or ``"features"``.
        lr: Learning rate at the start.
    """

    first: str = ""
    loss: str = ""
    lr: float = 1e-3


METHODS = {
    "none": Method(),
    "norms matched": Method("recalibrate"),
    "least squares, dense inputs": Method("dense"),
    "least squares": Method("pruned"),
    "least squares, norms and depthwise too": Method("all"),
    "training": Method("", "task"),
    "training, 3e-4": Method("", "task", 3e-4),
    "training, 2e-3": Method("", "task", 2e-3),
    "training on the teacher": Method("", "waveform"),
    "training on both": Method("", "both"),
    "training on both and masks": Method("", "features"),
    "least squares, training": Method("pruned", "task"),
    "least squares, training, 3e-4": Method("pruned", "task", 3e-4),
    "least squares, training on both": Method("pruned", "both"),
}


def apply(
    method: Method,
    model: nn.Module,
    teacher: nn.Module,
    kept: KeptChannels,
    data: Path,
    steps: int,
    seed: int,
) -> None:
    """Recover a pruned model in place."""
    fit = list(batches(dense.train_set(data, seed=300 + seed), FIT_SIZE, steps=FIT_BATCHES))
    with dense.fast_global_norm():
        if method.first == "recalibrate":
            recalibrate(model, fit, teacher, kept)
        elif method.first == "all":
            reconstruct(model, teacher, fit, kept, parts=("mixing", "depthwise", "norm"))
        elif method.first:
            reconstruct(model, teacher, fit, kept, inputs=method.first)
        if not method.loss:
            return
        finetune(
            model,
            dense.train_set(data, seed=100 + seed),
            dense.validation_set(data, size=32),
            loss=_loss(method.loss, teacher, kept),
            steps=steps,
            lr=method.lr,
            val_every=max(1, steps // 3),
            schedule="cosine",
            precision="bf16-mixed",
            seed=seed,
            progress=False,
        )


def _loss(name: str, teacher: nn.Module, kept: KeptChannels) -> Any:
    if name == "task":
        return pit_neg_si_sdr
    if name == "waveform":
        return Distillation(teacher, task_weight=0.0)
    features = FEATURES if name == "features" else []
    return Distillation(teacher, features=features, kept=kept)


def score(model: nn.Module, test: MixtureDataset) -> dict[str, float]:
    """Mean improvements on the test mixtures, in dB."""
    with dense.fast_global_norm():
        return scores(evaluate(model, test, sample_rate=test.sample_rate, batch_size=10))


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds recordings/.")] = DATA,
    name: Annotated[str, typer.Option("--model", help="A trained model.")] = "ConvTasNet",
    results: Annotated[Path, typer.Option(help="Folder for recovery.json and .md.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Where pruned models go, in models/.")] = WORK,
    budget: Annotated[list[float], typer.Option(help="Share of the MACs.")] = [0.5, 0.25],  # noqa: B006
    criterion: Annotated[list[str], typer.Option(help="As of fsdd.py compare.")] = CRITERIA,
    method: Annotated[list[str] | None, typer.Option(help="Default: all.")] = None,
    seed: Annotated[list[int], typer.Option(help="Of mixtures and gates.")] = [0, 1, 2],  # noqa: B006
    steps: Annotated[int, typer.Option(help="Of training, at batch 8 x 2 s.")] = 120,
    search_steps: Annotated[int, typer.Option(help="Of our gates.")] = 500,
    mixtures: Annotated[int, typer.Option(help="Test mixtures.")] = 150,
) -> None:
    """Run what is missing and write the table."""
    settings = Settings(search_steps=search_steps)
    comparison = opened(name, data, CHECKPOINTS, results, work / "models", settings, mixtures)
    model, test = comparison.model, comparison.test
    records = Records(results / "recovery.json", KEYS)
    common = {"search_steps": search_steps, **comparison.common}
    base = {"experiment": "recovery", "model": name, "data": "fsdd"}
    whole = {"criterion": "none", "budget": 1.0, "seed": 0, "method": "dense"}
    if not records.find(**base, **whole, **common):
        record = {**base, **whole, "stage": "dense", **score(model, test), "seconds": 0.0}
        records.replace({**record, **common, **environment()})
    for s, b, c, way in itertools.product(seed, budget, criterion, method or list(METHODS)):
        key = {"criterion": c, "budget": b, "seed": s, "method": way}
        trained = {"steps": steps if METHODS[way].loss else 0}
        if records.find(**base, **key, **trained, **common):
            continue
        recovered, kept = comparison.pruned(c, b, s)
        began = time.monotonic()
        apply(METHODS[way], recovered, model, kept, data, steps, s)
        record = {
            **base,
            **key,
            "stage": "pruned" if way == "none" else "recovered",
            "seconds": round(time.monotonic() - began, 1),
            **score(recovered, test),
            "lr": METHODS[way].lr if METHODS[way].loss else None,
            **trained,
            **common,
            **environment(),
        }
        records.replace(record)
        write_atomically(results / "recovery.md", page(records.items, list(METHODS)))
        typer.echo(f"{c} {b} seed {s}, {way}: {record['si_sdri']} dB, {record['seconds']} s")


if __name__ == "__main__":
    typer.run(main)
