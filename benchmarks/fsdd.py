"""Separators on mixtures of real speech (Free Spoken Digit Dataset): train, prune, compare.

``python benchmarks/fsdd.py train`` trains a dense model, about an hour on one thread.
``python benchmarks/fsdd.py compare`` prunes dense models by our criterion, the paper's and
torch-pruning's, and recovers them. ``python benchmarks/fsdd.py table`` writes the page again.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import _fsdd_dense as dense
import typer
from _fsdd_ahead import by_gates
from _fsdd_table import page
from _records import Records, write_atomically

ROOT = Path(__file__).resolve().parent
DATA = ROOT.parent.parent / "shared" / "fsdd"
CHECKPOINTS = ROOT / "checkpoints"
RESULTS = ROOT / "results"
WORK = ROOT.parent / "runs" / "fsdd"

BUDGETS, SEEDS = [0.5, 0.25], [0, 1, 2]
MODELS = list(dense.MODELS)

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
    model: Annotated[list[str], typer.Option(help="Dense models that are trained.")] = MODELS,
    checkpoints: Annotated[Path, typer.Option(help="Where they are.")] = CHECKPOINTS,
    results: Annotated[Path, typer.Option(help="Folder of the records and the page.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Where pruned models go, in models/.")] = WORK,
    budget: Annotated[list[float], typer.Option(help="Share of the MACs to keep.")] = BUDGETS,
    seed: Annotated[list[int], typer.Option(help="Of mixtures, gates and recovery.")] = SEEDS,
    criterion: Annotated[
        list[str] | None, typer.Option(help="Default: ours, the paper's, all baselines.")
    ] = None,
    mixtures: Annotated[int, typer.Option(help="Test mixtures.")] = 150,
    search_steps: Annotated[int, typer.Option(help="Of every search for gates.")] = 500,
    search_batch: Annotated[int, typer.Option(help="Mixtures in a step of it.")] = 1,
    search_seconds: Annotated[float, typer.Option(help="Length of those mixtures.")] = 2.0,
    gradient_mixtures: Annotated[int, typer.Option(help="That Taylor and Hessian see.")] = 128,
    recovery_steps: Annotated[int, typer.Option(help="Batches of 8 x 2 s; 0: none.")] = 120,
    repairs: Annotated[
        list[str], typer.Option("--repair", help="Of what is recovered: as pruned, or repaired.")
    ] = ["none", "least squares"],  # noqa: B006
    recover_margin: Annotated[
        float, typer.Option(help="Recover on later seeds what comes so close on the first (dB).")
    ] = 0.3,
    recover_least: Annotated[int, typer.Option(help="Baselines to recover at least.")] = 3,
    screen: Annotated[
        float, typer.Option(help="Recover only what comes so close before recovery (dB).")
    ] = float("inf"),
    again: Annotated[bool, typer.Option(help="Choose channels anew, whatever is there.")] = False,
) -> None:
    """Prune and recover by every criterion, budget and seed; finished runs are not repeated.

    Runs for different models or seeds may go on at the same time. Which baselines to recover on
    later seeds follows from the first one.
    """
    from _fsdd_compare import CRITERIA, Settings, UnreachableError, WaitingError, opened

    settings = Settings(
        search_steps,
        search_batch,
        search_seconds,
        gradient_mixtures,
        recovery_steps,
        recover_margin,
        recover_least,
        screen,
    )
    criteria = criterion or CRITERIA
    if unknown := [name for name in criteria if name not in CRITERIA]:
        raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(CRITERIA)}")
    for name in model:
        comparison = opened(name, data, checkpoints, results, work / "models", settings, mixtures)
        comparison.score_dense()
        for seed_, share, criterion_ in itertools.product(seed, budget, criteria):
            try:
                _say(comparison.prune(criterion_, share, seed_, again))
            except UnreachableError as error:
                typer.echo(f"{name} {criterion_} {share} seed {seed_}: {error}")
        table(results)
        for seed_, share in itertools.product(sorted(seed), budget):
            if not recovery_steps:
                for criterion_ in filter(by_gates, criteria if len(repairs) > 1 else []):
                    _say(comparison.reconstruct(criterion_, share, seed_))
                continue
            try:
                chosen = filter(by_gates, criteria)
                for criterion_, repair_ in itertools.product(chosen, repairs):
                    _say(comparison.recover(criterion_, share, seed_, repair_))
                chosen = iter(comparison.to_recover(criteria, share, seed_))
                for criterion_, repair_ in itertools.product(chosen, repairs):
                    _say(comparison.recover(criterion_, share, seed_, repair_))
            except WaitingError as error:
                typer.echo(f"{name} {share} seed {seed_}: {error}")
            table(results)


@app.command()
def table(
    results: Annotated[Path, typer.Option(help="Folder of the records and the page.")] = RESULTS,
) -> None:
    """Write fsdd.md from the records."""
    paths = [results / f"fsdd_{name.lower()}.json" for name in MODELS]
    records = [record for path in paths if path.exists() for record in Records(path).items]
    if not records:
        raise typer.BadParameter(f"there are no records in {results}")
    write_atomically(results / "fsdd.md", page(records))


def _say(record: dict[str, Any]) -> None:
    typer.echo(
        f"{record['model']} {record['criterion']} {record['budget']} seed {record['seed']} "
        f"{record['stage']}, repair {record['repair']}: SI-SDRi {record['si_sdri']:.2f} dB, "
        f"{record['macs_share']:.1%} of the MACs, {record['seconds']:.0f} s"
    )


if __name__ == "__main__":
    app()
