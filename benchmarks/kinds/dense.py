"""Train the dense models that the other experiments prune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.config import Experiment
from benchmarks.harness.data import open_corpus
from benchmarks.harness.dense import FOLDER, asked, description_of, keep, progress, train
from benchmarks.harness.running import WORK
from benchmarks.pages.markdown import table

from .base import Kind, Only, wants

__all__ = ["KIND", "keep_unfinished"]


def _description(experiment: Experiment, name: str) -> dict[str, Any] | None:
    try:
        return description_of(name, str(experiment.data["name"]))
    except FileNotFoundError:
        return None


def _trained(experiment: Experiment, name: str) -> bool:
    found = _description(experiment, name)
    if found is None or not found.get("finished", True):
        return False
    seconds, options = asked(name, experiment)
    return bool(found.get("training") == {"seconds": seconds, **options})


def _work(experiment: Experiment, name: str) -> Path:
    """Where a training keeps its state."""
    return WORK / "dense" / f"{experiment.data['name']}_{name}"


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    corpus = open_corpus(experiment.data)
    for name in experiment.models:
        if not wants(only, "model", name) or _trained(experiment, name):
            continue
        work, devices = _work(experiment, name), int(only.get("devices") or 1)
        found = train(name, corpus, experiment, work, FOLDER, devices)
        say(
            f"{name}: SI-SDRi {found['si_sdri']:.2f} dB after {found['steps']} steps, "
            f"{found['seconds'] / 60:.0f} minutes"
        )


def keep_unfinished(experiment: Experiment, say: Callable[[str], None]) -> None:
    """Copy the best weights of trainings in progress to the checkpoints.

    Args:
        experiment: Of kind ``dense``.
        say: Told a line per model.
    """
    corpus = open_corpus(experiment.data)
    for name in experiment.models:
        work = _work(experiment, name)
        if _trained(experiment, name) or not (work / "last.pt").exists():
            continue
        found = keep(name, corpus, experiment, work)
        say(
            f"{name}: step {found['steps']}, validation SI-SDRi {found['validation_si_sdri']:.2f} "
            f"dB, test {found['si_sdri']:.2f} dB"
        )


def _status(experiment: Experiment) -> str:
    done = sum(_trained(experiment, name) for name in experiment.models)
    running = (progress(name, _work(experiment, name)) for name in experiment.models)
    told = [f"{done} of {len(experiment.models)} models trained as asked", *filter(None, running)]
    return "; ".join(told)


def _section(experiment: Experiment) -> list[str]:
    rows = []
    for name in experiment.models:
        found = _description(experiment, name)
        if found is None or not found.get("finished", True):
            continue
        rows.append(
            [
                name,
                f"{found['params']:,}",
                f"{found['si_sdri']:.2f}",
                f"{found['sdri']:.2f}",
                f"{found['test']['mixtures']}",
                f"{found['steps']:,}",
                f"{found['seconds'] / 60:.0f}",
                found["machine"],
                found["date"][:10],
            ]
        )
    heads = ["model", "parameters", "SI-SDRi", "SDRi", "mixtures", "steps", "minutes", "machine"]
    return table([*heads, "day"], rows, text=(0, 7, 8)) if rows else []


KIND = Kind(_run, _status, _section)
