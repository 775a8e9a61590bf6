"""``sepprune demo``: the whole job on the model that ships with the package."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    DryRunOption,
    SeedOption,
    example_mixture,
    hardware,
    note,
    say,
)
from sepprune_tp.commands.output import show, visible, watched
from sepprune_tp.errors import require
from sepprune_tp.files import make_folder
from sepprune_tp.files.locking import alone_with

if TYPE_CHECKING:
    from torch import nn

    from sepprune_tp.job import SearchSettings

__all__ = ["demo", "run_demo"]

VALIDATION = 24  # mixtures
LISTEN = 3  # test mixtures to write as WAV


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path(
        "runs/demo"
    ),
    budget_macs: Annotated[float, typer.Option(help="Share of the MACs to keep.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Steps of the search.")] = 200,
    recovery_steps: Annotated[int, typer.Option(help="Steps of the recovery.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Mixtures a step.")] = 4,
    limit: Annotated[int | None, typer.Option(help="Only so many test mixtures.")] = None,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
) -> dict[str, Any]:
    """Profile, search, prune, recover and evaluate the shipped model, and report it all."""
    from sepprune_tp.job import SearchSettings
    from sepprune_tp.reporting.summary import comparison_table

    settings = SearchSettings(budget_macs=budget_macs, steps=steps, seed=seed)
    place, accelerator = hardware(device, None)
    if dry_run:
        return _plan(out, settings, recovery_steps, batch_size, place)
    with alone_with(out / "report.json"):
        report = run_demo(out, settings, recovery_steps, batch_size, limit, place, accelerator)
    show(comparison_table(report, "From a trained separator to a smaller one"))
    total = sum(report["seconds"].values())
    say(
        f"{total:.0f} s in all. {out}/report.html, report.md, report.json, channels.png, audio/ "
        "to listen to, and the models: pruned.safetensors, recovered.safetensors"
    )
    return report


def run_demo(
    out: Path,
    settings: SearchSettings,
    recovery_steps: int,
    batch_size: int,
    limit: int | None = None,
    device: str = "cpu",
    accelerator: str = "cpu",
) -> dict[str, Any]:
    """Do the job and write everything but the terminal's table.

    Args:
        out: Folder for ``report.html``, ``.md`` and ``.json``, ``channels.png``, ``audio/`` and
            the models.
        settings: Of the search.
        recovery_steps: Optimiser steps of the recovery.
        batch_size: Mixtures a step, of search and recovery.
        limit: Only so many of the test mixtures.
        device: Where to compute.
        accelerator: Lightning's name for its kind.

    Returns:
        The content of ``report.json``.
    """
    from sepprune_tp.data import batches
    from sepprune_tp.demo import demo_model, demo_test_set, demo_training_set
    from sepprune_tp.job import shrink
    from sepprune_tp.profile import profile
    from sepprune_tp.recovery import finetune
    from sepprune_tp.reporting.files import write_text
    from sepprune_tp.reporting.measuring import Measuring
    from sepprune_tp.reporting.page import html_page
    from sepprune_tp.reporting.summary import STAGES, environment, finite, profile_table

    make_folder(out)
    clock: dict[str, float] = {}
    dense = demo_model().to(device)
    rate = int(dense.sample_rate)  # type: ignore[arg-type]
    example = example_mixture(dense, 1.0, rate)
    show(profile_table(profile(dense, example), rows=8))
    with _timed(clock, "data"):
        training: Any = demo_training_set(out / "cache", seed=settings.seed)
        validation: Any = demo_training_set(out / "cache", size=VALIDATION, seed=settings.seed + 1)
    pruned = copy.deepcopy(dense)
    with _timed(clock, "search"):
        stream = batches(training, batch_size, shuffle_seed=settings.seed)
        shrunk = shrink(pruned, example, stream, settings, progress=visible())
    recovered = copy.deepcopy(pruned)
    with _timed(clock, "recovery"):
        result = finetune(
            recovered,
            training,
            validation,
            batch_size=batch_size,
            accelerator=accelerator,
            progress=visible(),
            steps=recovery_steps,
            schedule="cosine",  # so short a run needs a rate that falls
            val_every=max(1, recovery_steps // 3),
            seed=settings.seed,
        )
    models = dict(zip(STAGES, (dense, pruned, recovered), strict=True))
    test = demo_test_set()[:limit]
    names = tuple(path.stem for path in _mixtures())
    with _timed(clock, "evaluation"), watched(test, "evaluating") as mixtures:
        note(f"Dense, pruned and recovered model on {len(test)} mixtures...")
        stages = Measuring(example, rate, mixtures, names).figures(models)
    recovery = {"steps": result.steps, "batch_size": batch_size, "stopped": result.stopped}
    report = {
        "model": f"demo ({type(dense).__name__})",
        **stages,
        "groups": {name: list(sizes) for name, sizes in shrunk.kept.items()},
        "history": {
            "search": finite(shrunk.search.history),
            "recovery": finite(result.history),
        },
        "data": "the demo's test mixtures (synthetic speech, speakers not heard in training)",
        "settings": {**asdict(settings), "recovery": recovery},
        "seconds": clock,
        **environment(),
    }
    _write(out, report, models)
    clips = Measuring(example, rate, test, names).clips(models)
    write_text(out / "report.html", html_page(report, clips))
    return report


def _plan(
    out: Path, settings: SearchSettings, recovery_steps: int, batch_size: int, device: str
) -> dict[str, Any]:
    """What the demo would do; its training mixtures would be made first."""
    from sepprune_tp.commands.plan_text import say_plan
    from sepprune_tp.commands.planning import Work, plan_search
    from sepprune_tp.demo import demo_model, demo_test_set

    require("espeakng_loader", "demo", "Making the demo's speech")
    require("lightning", "train", "Recovery")
    network = demo_model().to(device)
    rate = int(network.sample_rate)  # type: ignore[arg-type]
    length = 2 * rate  # of the mixtures that it trains on
    heard = [(mix[:length], sources[:, :length]) for mix, sources in demo_test_set()]
    heard = [item for item in heard if item[0].shape[-1] == length]
    names = ("report.html", "report.md", "report.json", "channels.png", "audio", "cache")
    models = ("pruned.safetensors", "recovered.safetensors")
    writes = tuple(out / name for name in (*names, *models))
    work = Work(heard, heard, batch_size, settings.steps, settings.seed, 1, "cpu", writes)
    plan = plan_search(network, example_mixture(network, 1.0, rate), settings, (), work)
    made = {"training_mixtures": None, "validation_mixtures": VALIDATION, "epochs": None}
    plan |= {**made, "recovery_steps": recovery_steps}
    say_plan(plan, rate)
    note(f"After the search, {recovery_steps} steps of recovery.")
    return plan


def _mixtures() -> list[Path]:
    """The files of the test mixtures, in their order."""
    from sepprune_tp.demo import ASSETS

    return sorted((ASSETS / "test" / "mix").glob("*.flac"))


def _write(out: Path, report: dict[str, Any], models: dict[str, nn.Module]) -> None:
    """Report, plot, models and audio."""
    from sepprune_tp.checkpoint import save_pruned
    from sepprune_tp.reporting.files import write_json, write_text
    from sepprune_tp.reporting.summary import STAGES, markdown_report, plot_channels
    from sepprune_tp.separation import separate_file

    for stage in STAGES[1:]:
        save_pruned(models[stage], out / f"{stage}.safetensors", metadata={"demo": report[stage]})
    for mixture in _mixtures()[:LISTEN]:
        folder = out / "audio" / mixture.stem
        make_folder(folder)
        shutil.copyfile(mixture, folder / "mixture.flac")
        for stage, model in models.items():
            separate_file(model, mixture, folder / stage)
    plot_channels(out / "channels.png", report["groups"])
    write_text(out / "report.md", markdown_report(report, "channels.png"))
    write_json(out / "report.json", report)


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    """Say what is going on, and note how many seconds it took."""
    note(f"{name.capitalize()}...")
    start = time.perf_counter()
    yield
    clock[name] = time.perf_counter() - start
