"""How soon a pruned model is good again: by step, against the same shape from scratch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.config import Experiment
from benchmarks.harness.data import open_corpus

from .markdown import table
from .plots import curve_plot

__all__ = ["first_reached", "section"]

Record = dict[str, Any]
Curves = dict[tuple[str, float, str], list[tuple[int, float]]]
"""Step and dB, by criterion, budget and recovery."""


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """A plot and a table for every dense model."""
    lines: list[str] = []
    rows: list[list[str]] = []
    epoch = epoch_steps(experiment)
    for name in experiment.models:
        found = [r for r in records if r["model"] == name]
        dense = next((r for r in found if r["stage"] == "dense"), None)
        curves = _mean_curves(found)
        if dense is None or not curves:
            continue
        shown = [(_name(key), *_points(curve)) for key, curve in curves.items()]
        lines += [f"### {name}", "", curve_plot(f"{experiment.name}_{name}", name, shown), ""]
        rows += _rows(name, dense, found, curves, epoch)
    if not rows:
        return []
    heads = ["model", "criterion", "MACs", "seeds", "before training", "after one epoch"]
    heads += ["share of dense", "after all steps", "from scratch", "sooner by", "dense, scratch"]
    return [
        *lines,
        f"One epoch: as many mixtures as hold the training speech once, {epoch} steps. *Share of "
        "dense*: test SI-SDRi after one epoch over the dense model's. *After all steps*, *from "
        "scratch* (the same shape and the same steps) and *dense, scratch*: test SI-SDRi in dB. "
        "*Sooner by*: steps that training from scratch takes to the best validation SI-SDR that "
        "it reaches, over the steps that the pruned model takes to the same.",
        "",
        *table(heads, rows, text=(0, 1)),
    ]


def epoch_steps(experiment: Experiment) -> int:
    """Steps in which the training speech is heard once."""
    recovery = next(one for one in experiment.recoveries.values() if one.steps)
    speech = open_corpus(experiment.data).epoch
    return max(1, round(speech / (2 * recovery.seconds * recovery.batch_size)))


def first_reached(curve: Sequence[tuple[int, float]], level: float) -> int | None:
    """First step at which a curve is at a level, None if it never is."""
    return next((step for step, value in curve if value >= level), None)


def _name(key: tuple[str, float, str]) -> str:
    criterion, budget, recovery = key
    return f"{recovery} ({criterion} {budget:.0%})" if criterion != "none" else f"dense, {recovery}"


def _points(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def _mean_curves(
    records: Sequence[Record],
) -> dict[tuple[str, float, str], list[tuple[int, float]]]:
    """Mean validation SI-SDR over the seeds of what was trained."""
    records = [record for record in records if record.get("history")]
    keys = list(dict.fromkeys((r["criterion"], r["budget"], r["recovery"]) for r in records))
    curves = {}
    for criterion, budget, recovery in keys:
        histories = [
            r["history"]
            for r in records
            if (r["criterion"], r["budget"], r["recovery"]) == (criterion, budget, recovery)
        ]
        curves[criterion, budget, recovery] = [
            (rows[0]["step"], statistics.fmean(row["si_sdr"] for row in rows))
            for rows in zip(*histories, strict=False)
        ]
    return curves


def _rows(
    name: str,
    dense: Record,
    found: Sequence[Record],
    curves: Curves,
    epoch: int,
) -> list[list[str]]:
    """One row for every criterion and budget that was trained and begun from scratch."""

    def mean(criterion: str, budget: float, way: str) -> float | None:
        values = [
            r["si_sdri"]
            for r in found
            if (r["criterion"], r["budget"], r["recovery"]) == (criterion, budget, way)
        ]
        return statistics.fmean(values) if values else None

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    rows = []
    pairs = dict.fromkeys((c, b) for c, b, _ in curves if c != "none")
    for criterion, budget in pairs:
        trained = curves.get((criterion, budget, "recovered"))
        scratch = curves.get((criterion, budget, "scratch"))
        if trained is None or scratch is None:
            continue
        level = max(value for _, value in scratch)
        slow, fast = first_reached(scratch, level), first_reached(trained, level)
        sooner = "" if fast is None or slow is None else f"{slow / max(1, fast):.0f} ×"
        if fast == 0:
            sooner = "at once"
        once = mean(criterion, budget, "one epoch")
        seeds = {r["seed"] for r in found if r["criterion"] == criterion}
        rows.append(
            [
                name,
                criterion,
                f"{budget:.0%}",
                str(len(seeds)),
                shown(mean(criterion, budget, "pruned")),
                shown(once),
                "" if once is None else f"{once / dense['si_sdri']:.0%}",
                shown(mean(criterion, budget, "recovered")),
                shown(mean(criterion, budget, "scratch")),
                sooner,
                shown(mean("none", 1.0, "scratch")),
            ]
        )
    return rows
