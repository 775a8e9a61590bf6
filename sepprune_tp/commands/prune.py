"""``sepprune prune``: learn which channels to keep and remove the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sepprune_tp.commands.common import (
    AcceleratorOption,
    AudioRootOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    DryRunOption,
    MixOption,
    OutOption,
    RateOption,
    SeedOption,
    example_mixture,
    hardware,
    note,
    open_model,
    rate_of,
    words,
    writable,
)
from sepprune_tp.commands.keeping import RestartOption, keeps_state
from sepprune_tp.errors import DataError, InputError

__all__ = ["prune"]

BUDGET, SEARCH = "Budget: a share such as 0.5 or 50%, or a figure with its unit", "Search"


@keeps_state("checkpoint", "search")
def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", hidden=True)],
    data: DataOption,
    out: OutOption,
    dry_run: DryRunOption = False,
    budget_macs: Annotated[
        str | None,
        typer.Option(metavar="X", help="MACs to keep: 0.5, 1.2G [0.5].", rich_help_panel=BUDGET),
    ] = None,
    budget_params: Annotated[
        str | None,
        typer.Option(metavar="X", help="Parameters to keep: 0.5, 800k.", rich_help_panel=BUDGET),
    ] = None,
    budget_latency: Annotated[
        str | None,
        typer.Option(metavar="X", help="Time for 1 s of audio here: 15ms.", rich_help_panel=BUDGET),
    ] = None,
    budget_memory: Annotated[
        str | None,
        typer.Option(metavar="X", help="Peak memory for 1 s: 0.5, 12MB.", rich_help_panel=BUDGET),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="X,X...",
            help="MACs: one search, a model NAME-X for each.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    mix: MixOption = None,
    audio_root: AudioRootOption = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="Length of the mixtures.")] = 2.0,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Mixtures a step.")] = 4,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of the search.", rich_help_panel=SEARCH)
    ] = 500,
    lr: Annotated[
        float, typer.Option(metavar="X", help="Learning rate of gates.", rich_help_panel=SEARCH)
    ] = 0.1,
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="or gumbel, as published.",
            autocompletion=words("budget", "gumbel"),
            rich_help_panel=SEARCH,
        ),
    ] = "budget",
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="or all, encoder too.",
            autocompletion=words("separator", "all"),
            rich_help_panel=SEARCH,
        ),
    ] = "separator",
    round_to: Annotated[
        str,
        typer.Option(metavar="N|auto", help="Widths are multiples of it.", rich_help_panel=SEARCH),
    ] = "1",
    reconstruct: Annotated[
        bool,
        typer.Option(
            metavar="",
            show_default=False,
            help="Least squares after the cut.",
            rich_help_panel=SEARCH,
        ),
    ] = True,
    lookahead: Annotated[
        bool | None,
        typer.Option(metavar="", help="Look for channels that are best after that.", hidden=True),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its state, to go on from.", rich_help_panel=SEARCH),
    ] = None,
    restart: RestartOption = False,
    report: Annotated[
        bool,
        typer.Option(metavar="", show_default=False, help="HTML, Markdown, JSON beside the model."),
    ] = True,
    curve_mixtures: Annotated[
        int,
        typer.Option(metavar="N", help="Mixtures it scores."),
    ] = 50,
    seed: SeedOption = 0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = None,
) -> dict[str, Any]:
    """Learn which channels a model can do without, and write it without them.
    MODEL is a file, owner/name on a hub, module:function, or the word demo.
    """  # noqa: D205
    from sepprune_tp.commands.datasets import open_data
    from sepprune_tp.commands.pruning import Job
    from sepprune_tp.job import SearchSettings

    wanted = [] if budgets is None else [text.strip() for text in budgets.split(",")]
    free = all(b is None for b in (budget_macs, budget_params, budget_latency, budget_memory))
    if budgets is not None and not free:
        raise InputError("--budgets is a list of budgets of MACs; leave the other --budget-... out")
    if kind == "budget" and free:
        budget_macs = wanted[0] if wanted else "0.5"
    settings = SearchSettings(
        budget_macs=_plain(budget_macs),
        budget_params=_plain(budget_params),
        budget_latency=_plain(budget_latency),
        budget_memory=_plain(budget_memory),
        kind=kind,
        scope=scope,
        steps=steps,
        lr=lr,
        seed=seed,
        round_to=_step(round_to),
        reconstruct=reconstruct,
        lookahead=lookahead,
    )
    writable(out, make=not dry_run)
    device, accelerator = hardware(device, accelerator)
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    place: dict[str, Any] = {"sample_rate": rate, "mix": mix, "audio_root": audio_root}
    job = Job(
        name=model,
        network=network,
        example=example_mixture(network, 1.0, rate),
        rate=rate,
        train=open_data(data, "train", seconds=seconds, seed=seed, **place),
        held_out=_held_out(data, curve_mixtures if report or wanted else 0, place),
        batch_size=batch_size,
        settings=settings,
        out=out,
        report=report,
        checkpoint=checkpoint,
        devices=devices,
        accelerator=accelerator,
    )
    if dry_run:
        return job.plan(wanted)
    if wanted:
        return job.family(wanted)
    result = job.one()
    note(f"Next: sepprune finetune {out} --data {data} -o recovered.safetensors")
    return result


def _held_out(data: Path, count: int, place: dict[str, Any]) -> Any:
    """The validation mixtures that a report scores; None if none are wanted or there."""
    from sepprune_tp.commands.datasets import open_data

    if count < 1:
        return None
    try:
        return open_data(data, "val", limit=count, **place)
    except DataError as error:
        note(f"Note: the report will hold costs alone. {error}")
        return None


def _plain(text: str | None) -> float | str | None:
    """A number where the text is one, so that files hold 0.5 and not "0.5"."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _step(round_to: str) -> int | Literal["auto"]:
    if round_to == "auto":
        return "auto"
    try:
        return int(round_to)
    except ValueError:
        raise InputError(f"--round-to is {round_to!r}; give a number, or auto.") from None
