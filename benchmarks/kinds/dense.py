"""Train the dense models that the other experiments prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness.config import Experiment
from benchmarks.harness.data import open_corpus
from benchmarks.harness.dense import FOLDER, description_of, train
from benchmarks.harness.running import WORK
from benchmarks.pages.markdown import table

from .base import Kind, Only, wants

__all__ = ["KIND"]


def _description(experiment: Experiment, name: str) -> dict[str, Any] | None:
    try:
        return description_of(name, str(experiment.data["name"]))
    except FileNotFoundError:
        return None


def _asked(experiment: Experiment, name: str) -> dict[str, Any]:
    """The training that a configuration asks for, as descriptions hold it."""
    options = dict(experiment.options)
    own = options.pop("models", {}).get(name, {})
    return {"seconds": 2.0, **options, **own}


def _trained(experiment: Experiment, name: str) -> bool:
    found = _description(experiment, name)
    return found is not None and found.get("training") == _asked(experiment, name)


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    corpus = open_corpus(experiment.data)
    for name in experiment.models:
        if not wants(only, "model", name) or _trained(experiment, name):
            continue
        work = WORK / "dense" / f"{corpus.name}_{name}"
        found = train(name, corpus, experiment, work, FOLDER, int(only.get("devices") or 1))
        say(
            f"{name}: SI-SDRi {found['si_sdri']:.2f} dB after {found['steps']} steps, "
            f"{found['seconds'] / 60:.0f} minutes"
        )


def _status(experiment: Experiment) -> str:
    done = sum(_trained(experiment, name) for name in experiment.models)
    return f"{done} of {len(experiment.models)} models trained as asked"


def _section(experiment: Experiment) -> list[str]:
    rows = []
    for name in experiment.models:
        found = _description(experiment, name)
        if found is None:
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
