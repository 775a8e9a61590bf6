"""How far the channels that a criterion keeps depend on the seed; from another grid's records."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.harness.bench import decoded
from benchmarks.harness.config import Experiment, find
from benchmarks.pages.markdown import table

from .base import Kind, Only
from .grid import current

__all__ = ["KIND", "overlap"]

Record = dict[str, Any]


def overlap(one: Record, other: Record) -> tuple[float, float]:
    """Channels that two choices both keep, over those that either keeps; and what chance gives.

    Args:
        one: A record with masks.
        other: Another with masks of the same groups.

    Returns:
        The Jaccard index of the kept channels, and its expectation for choices of the same widths
        made independently at random (of expected intersections and unions).
    """
    first, second = decoded(one["masks"]), decoded(other["masks"])
    a, b = (torch.cat(list(masks.values())) for masks in (first, second))
    by_chance = sum(
        float(first[name].sum()) * float(second[name].sum()) / len(first[name]) for name in first
    )
    kept = float(a.sum() + b.sum())
    return float((a & b).sum()) / float((a | b).sum()), by_chance / (kept - by_chance)


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    say(f"{experiment.name} needs no run: it reads the records of {experiment.options['of']}")


def _rows(records: Sequence[Record], label: str, budget: float) -> list[str] | None:
    found = [
        r
        for r in records
        if (r["criterion"], r["budget"], r["recovery"]) == (label, budget, "pruned")
        and "masks" in r
    ]
    if len(found) < 2:
        return None
    pairs = [overlap(one, other) for one, other in itertools.combinations(found, 2)]
    values = [r["si_sdri"] for r in found]
    shares = [100 * r["macs_share"] for r in found]
    return [
        label,
        f"{budget:.0%}",
        str(len(found)),
        f"{statistics.fmean(pair[0] for pair in pairs):.0%}",
        f"{statistics.fmean(pair[1] for pair in pairs):.0%}",
        f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}",
        f"{min(shares):.1f} to {max(shares):.1f}",
    ]


def _section(experiment: Experiment) -> list[str]:
    lines: list[str] = []
    for source in map(find, experiment.options["of"]):
        records = current(source)
        labels = [choice.label for choice in source.criteria]
        wanted = [label for label in labels if label in experiment.options["criteria"]]
        for name in source.models:
            mine = [r for r in records if r["model"] == name]
            rows = [
                row
                for label in wanted
                for budget in source.budgets
                if (row := _rows(mine, label, budget))
            ]
            if rows:
                heads = ["criterion", "MACs asked", "seeds", "channels shared", "by chance"]
                heads += ["SI-SDRi as pruned (dB)", "MACs kept (%)"]
                lines += [f"### {name} ({source.name})", "", *table(heads, rows, text=(0,)), ""]
    return lines


KIND = Kind(_run, lambda experiment: "read from other records", _section)
