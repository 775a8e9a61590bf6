"""Separators on mixtures of real speech (Free Spoken Digit Dataset): train, prune, compare.

``python benchmarks/fsdd.py train`` trains a dense model, about an hour on one thread.
``python benchmarks/fsdd.py compare`` prunes it by our criterion, magnitude and Taylor.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Annotated

import _fsdd_dense as dense
import typer
from _fsdd_table import page
from _records import Records, data_hash, write_atomically

ROOT = Path(__file__).resolve().parent
DATA = ROOT.parent.parent / "shared" / "fsdd"
CHECKPOINTS = ROOT / "checkpoints"
WEIGHTS = CHECKPOINTS / "fsdd_convtasnet.safetensors"
RESULTS = ROOT / "results"
WORK = ROOT.parent / "runs" / "fsdd"

BUDGETS, SEEDS = [0.5, 0.25], [0, 1, 2]
CHOICE = "sepprune, or a torch-pruning importance; with /local, by layer."
CRITERIA = ["sepprune", "GroupMagnitudeImportance", "GroupTaylorImportance"]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

DataOption = Annotated[Path, typer.Option(help="Folder that holds recordings/.")]


@app.command()
def train(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(dense.MODELS)}.")] = "ConvTasNet",
    data: DataOption = DATA,
    checkpoints: Annotated[Path, typer.Option(help="Where trained models go.")] = CHECKPOINTS,
    work: Annotated[Path, typer.Option(help="Where a killed training resumes from.")] = WORK,
    minutes: Annotated[float, typer.Option(help="Time to train.")] = 55.0,
    batch_size: Annotated[int, typer.Option(help="Mixtures of 2 s in a step.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    retrain: Annotated[bool, typer.Option(help="Train even if there is a model.")] = False,
) -> None:
    """Train a dense model, unless it is there already."""
    if model not in dense.MODELS:
        raise typer.BadParameter(f"{model!r} is not one of {', '.join(dense.MODELS)}")
    weights = checkpoints / f"fsdd_{model.lower()}.safetensors"
    if weights.exists() and not retrain:
        _, description = dense.load(weights)
        typer.echo(f"{weights} is there already; --retrain trains another.")
    else:
        description = dense.train(
            model, data, weights, work / model, minutes=minutes, batch_size=batch_size, lr=lr
        )
    typer.echo(
        f"SI-SDRi {description['si_sdri']:.2f} dB, SDRi {description['sdri']:.2f} dB after "
        f"{description['steps']} steps in {description['seconds'] / 60:.0f} minutes."
    )


@app.command()
def compare(
    data: DataOption = DATA,
    weights: Annotated[Path, typer.Option(help="The trained dense model.")] = WEIGHTS,
    results: Annotated[Path, typer.Option(help="Folder for fsdd.json and fsdd.md.")] = RESULTS,
    budget: Annotated[list[float], typer.Option(help="Share of the MACs to keep.")] = BUDGETS,
    seed: Annotated[list[int], typer.Option(help="Of mixtures, gates and recovery.")] = SEEDS,
    criterion: Annotated[list[str], typer.Option(help=CHOICE)] = CRITERIA,
    search_steps: Annotated[int, typer.Option(help="Of our gates.")] = 250,
    recovery_steps: Annotated[int, typer.Option(help="Of every pruned model.")] = 120,
    mixtures: Annotated[int, typer.Option(help="Test mixtures.")] = 150,
) -> None:
    """Prune and recover by every criterion, budget and seed; finished runs are not repeated."""
    from _fsdd_compare import Comparison

    records = Records(results / "fsdd.json")
    model, _ = dense.load(weights)
    test = dense.test_set(data, mixtures)
    common = {
        "test_mixtures": mixtures,
        "test_seconds": dense.TEST_SECONDS,
        "data_sha256": data_hash(data),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    comparison = Comparison(data, model, test, records, search_steps, recovery_steps, common)
    comparison.score_dense()
    for chosen in itertools.product(seed, budget, criterion):
        comparison.run(chosen[2], chosen[1], chosen[0])
        for record in records.find(seed=chosen[0], budget=chosen[1], criterion=chosen[2]):
            typer.echo(
                f"{record['criterion']} {record['budget']} seed {record['seed']} "
                f"{record['stage']}: SI-SDRi {record['si_sdri']:.2f} dB, "
                f"{record['macs_share']:.1%} of the MACs, {record['seconds']:.0f} s"
            )
        write_atomically(results / "fsdd.md", page(records.find(**common)))


if __name__ == "__main__":
    app()
