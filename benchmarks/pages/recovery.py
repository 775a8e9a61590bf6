"""What brings a pruned separator back, each way alone: a row a way, a column a kind of pruning."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.harness.config import Experiment

from .markdown import spread, table
from .quality import values_by_seed

__all__ = ["section"]

Record = dict[str, Any]


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """A table for every dense model."""
    lines: list[str] = []
    columns = [(c.label, b) for c in experiment.criteria for b in experiment.budgets]
    for name in experiment.models:
        found = [r for r in records if r["model"] == name and r["stage"] != "dense"]
        if not found:
            continue
        rows = []
        for way in experiment.recoveries:
            cells = []
            for criterion, budget in columns:
                where = {"criterion": criterion, "budget": budget, "recovery": way}
                by_seed = values_by_seed(found, **where)
                cells.append(spread(list(by_seed.values()), len(experiment.seeds)))
            took = [r["seconds"] for r in found if r["recovery"] == way]
            rows.append([way, *cells, f"{statistics.median(took):.0f}" if took else ""])
        heads = ["recovery", *(f"{criterion} {budget:.0%}" for criterion, budget in columns)]
        lines += [f"### {name}", "", *table([*heads, "seconds"], rows, text=(0,)), ""]
    return lines
