"""One entry for every benchmark: ``python -m benchmarks --help``."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.criteria import OptionError, criterion
from benchmarks.harness.config import ConfigError, Experiment, find, names
from benchmarks.kinds import KINDS
from benchmarks.kinds.dense import keep_unfinished
from sepprune_tp.errors import SepPruneError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

ModelOption = Annotated[list[str] | None, typer.Option(help="Only these of its models.")]
SeedOption = Annotated[list[int] | None, typer.Option(help="Only these of its seeds.")]
CriterionOption = Annotated[list[str] | None, typer.Option(help="Only these, by label.")]


@app.command("list")
def list_experiments() -> None:
    """Say which experiments there are."""
    for name in names():
        experiment = find(name)
        typer.echo(f"{name:32} {experiment.kind:12} {experiment.title}")


@app.command()
def run(
    experiment: Annotated[list[str], typer.Argument(help="Names, or YAML files.")],
    model: ModelOption = None,
    seed: SeedOption = None,
    criterion: CriterionOption = None,
    recovery: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    budget: Annotated[list[float] | None, typer.Option(help="Only these.")] = None,
    devices: Annotated[int, typer.Option(help="That training is spread over.")] = 1,
) -> None:
    """Measure what is missing; a killed run goes on where it stopped.

    Start it twice to use two cores: what one process is at, the other leaves alone.
    """
    only = {
        "model": model,
        "seed": seed,
        "criterion": criterion,
        "recovery": recovery,
        "budget": budget,
        "devices": devices,
    }
    for one in map(_found, experiment):
        KINDS[one.kind].run(one, only, typer.echo)


@app.command()
def status(
    experiment: Annotated[list[str] | None, typer.Argument(help="Default: all.")] = None,
) -> None:
    """Say how many cells of each experiment are measured."""
    for one in map(_found, experiment or names()):
        try:
            how_far = KINDS[one.kind].status(one)
        except (ConfigError, SepPruneError) as error:  # its data or dense models are not here
            how_far = f"cannot run here: {error}"
        typer.echo(f"{one.name:32} {how_far}")


@app.command()
def keep(experiment: Annotated[list[str], typer.Argument(help="Of kind dense.")]) -> None:
    """Copy the best weights of trainings in progress to checkpoints/, to resume from."""
    for one in map(_found, experiment):
        if one.kind != "dense":
            raise ConfigError(f"{one.name}: only dense models are kept, its kind is {one.kind}")
        keep_unfinished(one, typer.echo)


@app.command()
def results() -> None:
    """Write RESULTS.md and its plots again from the records."""
    from benchmarks.pages import write

    typer.echo(f"wrote {write()}")


def _found(name: str) -> Experiment:
    experiment = find(name)
    if experiment.kind not in KINDS:
        raise ConfigError(
            f"{name}: kind {experiment.kind!r} is not one of {', '.join(sorted(KINDS))}"
        )
    for choice in experiment.criteria:
        try:
            criterion(choice.name, choice.options)
        except OptionError as error:
            raise ConfigError(f"{name}: criterion {choice.label!r}: {error}") from error
    return experiment


if __name__ == "__main__":
    try:
        app(standalone_mode=True)
    except (ConfigError, SepPruneError) as error:
        raise SystemExit(f"Error: {error}") from error
