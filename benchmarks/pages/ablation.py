"""What each part of the method is worth: one thing changed at a time."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.harness.config import Experiment

from .markdown import spread, table
from .quality import values_by_seed

__all__ = ["section"]

Record = dict[str, Any]


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """A table for every dense model; a row for every variant."""
    lines: list[str] = []
    for name in experiment.models:
        found = [r for r in records if r["model"] == name and r["stage"] != "dense"]
        if not found:
            continue
        rows = []
        for choice in experiment.criteria:
            for budget in experiment.budgets:
                mine = [
                    r for r in found if r["criterion"] == choice.label and r["budget"] == budget
                ]
                if not mine:
                    continue
                where = {"criterion": choice.label, "budget": budget}
                ways = [
                    list(values_by_seed(mine, **where, recovery=way).values())
                    for way in experiment.recoveries
                ]
                rows.append(
                    [
                        choice.label,
                        f"{budget:.0%}",
                        *(spread(values, len(experiment.seeds)) for values in ways),
                        f"{statistics.fmean(r['params'] for r in mine):,.0f}",
                        spread([100 * r["macs_share"] for r in mine[: len(experiment.seeds)]], 0, 1)
                        if _free(mine)
                        else f"{statistics.fmean(r['macs_share'] for r in mine):.1%}",
                        f"{statistics.median(r['choosing_seconds'] for r in mine):.0f}",
                    ]
                )
        heads = ["variant", "MACs asked", *experiment.recoveries, "parameters", "MACs kept"]
        lines += [f"### {name}", "", *table([*heads, "search (s)"], rows, text=(0,)), ""]
    return lines


def _free(records: list[Record]) -> bool:
    """Whether a variant ignores its budget, so that what it keeps differs between seeds."""
    shares = [r["macs_share"] for r in records]
    return max(shares) - min(shares) > 0.02
