"""``sepprune prune``: learn which channels to keep and remove the others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sepprune_tp.commands.common import (
    AcceleratorOption,
    AudioRootOption,
    DataOption,
    DeviceOption,
    DevicesOption,
    MixOption,
    ModelArgument,
    OutOption,
    RateOption,
    SeedOption,
    example_mixture,
    hardware,
    open_model,
    rate_of,
    say,
    writable,
)
from sepprune_tp.commands.keeping import RestartOption, keeps_state
from sepprune_tp.commands.pruned import save, say_spent, write_family, write_report
from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import DataError, InputError, SepPruneError
from sepprune_tp.job import SearchSettings, shrink, shrink_family
from sepprune_tp.profile import profile
from sepprune_tp.reporting.measuring import Measuring
from sepprune_tp.search.sharing import ItemBatches

__all__ = ["prune"]


@keeps_state("checkpoint", "search")
def prune(
    model: ModelArgument,
    data: DataOption,
    out: OutOption,
    budget_macs: Annotated[
        str | None,
        typer.Option(
            help="MACs to keep: a share, 50%, a number above 1, or 1.2G; 0.5 if no budget is given."
        ),
    ] = None,
    budget_params: Annotated[
        str | None, typer.Option(help="Parameters to keep, likewise: 0.5, 800k.")
    ] = None,
    budget_latency: Annotated[
        str | None, typer.Option(help="Time for 1 s of audio on this machine: 0.5, 15ms.")
    ] = None,
    budget_memory: Annotated[
        str | None, typer.Option(help="Peak memory for 1 s of audio: 0.5, 12MB.")
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Several budgets of MACs from one search, such as 0.25,0.5,0.75: a family of "
            "models NAME-0.25.safetensors..., and a report with their curve."
        ),
    ] = None,
    curve_mixtures: Annotated[
        int,
        typer.Option(help="Validation mixtures that the report scores; 0: costs alone."),
    ] = 50,
    report: Annotated[
        bool, typer.Option(help="Write a report beside the model: NAME-report.html, .md, .json.")
    ] = True,
    steps: Annotated[int, typer.Option(help="Steps of the search.")] = 500,
    kind: Annotated[
        str, typer.Option(help="budget, or gumbel: the published rule, which has no budget.")
    ] = "budget",
    scope: Annotated[
        str, typer.Option(help="separator, or all: also what couples encoder and decoder to it.")
    ] = "separator",
    batch_size: Annotated[int, typer.Option(help="Mixtures a step.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of the mixtures.")] = 2.0,
    lr: Annotated[float, typer.Option(help="Learning rate of the gates.")] = 0.1,
    round_to: Annotated[
        str, typer.Option(help="Widths are multiples of this; auto: of what this machine likes.")
    ] = "1",
    reconstruct: Annotated[
        bool, typer.Option(help="Fit the layers that lost inputs by least squares.")
    ] = True,
    lookahead: Annotated[
        bool | None,
        typer.Option(help="Look for the channels that are best after that [default: with it]."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Keep the search's state here, also at the end (else beside --out, until the "
            "end). A killed or interrupted run goes on from it."
        ),
    ] = None,
    restart: RestartOption = False,
    mix: MixOption = None,
    audio_root: AudioRootOption = None,
    seed: SeedOption = 0,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    accelerator: AcceleratorOption = None,
) -> None:
    """Learn which channels a model can do without, and write it without them."""
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
    writable(out)
    device, accelerator = hardware(device, accelerator)
    network = open_model(model, device)
    rate = rate_of(network, sample_rate)
    place: dict[str, Any] = {"sample_rate": rate, "mix": mix, "audio_root": audio_root}
    mixtures = open_mixtures(data, "train", seconds=seconds, seed=seed, **place)
    example = example_mixture(network, 1.0, rate)
    before = profile(network, example)
    stream = ItemBatches(mixtures, batch_size, shuffle_seed=seed)
    how: dict[str, Any] = {
        "checkpoint": checkpoint,
        "devices": devices,
        "accelerator": accelerator,
    }
    held_out = _held_out(data, curve_mixtures if report or budgets is not None else 0, place)
    measuring = Measuring(example, rate, held_out)
    if budgets is not None:
        members = shrink_family(network, example, stream, settings, wanted, **how)
        write_family(out, model, network, members, settings, measuring)
        return
    dense = copy.deepcopy(network)
    shrunk = shrink(network, example, stream, settings, **how)
    kept, spent = shrunk.kept, shrunk.search.spent
    after = profile(network, example)
    save(network, out, settings, kept, spent, before, after)
    say(
        f"Kept {sum(some for some, _ in kept.values())} of {sum(most for _, most in kept.values())}"
        f" channels in {len(kept)} groups."
    )
    say(f"Parameters {before.params:,} -> {after.params:,} ({after.params / before.params:.1%})")
    say(f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / before.macs:.1%})")
    say_spent(spent)
    if report:
        try:
            write_report(out, model, dense, network, shrunk, settings, measuring)
        except SepPruneError as error:  # the model is there, and what it took to find it
            say(f"Note: no report. {error}")
    say(f"Wrote {out}. Next: sepprune finetune {out} --data {data} -o recovered.safetensors")


def _held_out(data: Path, count: int, place: dict[str, Any]) -> Any:
    """The validation mixtures that a report scores; None if none are wanted or there."""
    if count < 1:
        return None
    try:
        return open_mixtures(data, "val", limit=count, **place)
    except DataError as error:
        say(f"Note: the report will hold costs alone. {error}")
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
