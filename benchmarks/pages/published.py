"""The paper's main table, with room for what is measured at its own size."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.config import Experiment

from .markdown import table

__all__ = ["section"]

Record = dict[str, Any]


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """Published and measured figures of one cell of the paper's table, dense and pruned."""
    told = experiment.options["published"]
    rows = []
    for stage in ("dense", "recovered"):
        own = told["dense" if stage == "dense" else "pruned"]
        mine = [r for r in records if r["stage"] == stage]
        measured = ["", "", "", ""]
        if mine:
            last = max(mine, key=lambda r: str(r["date"]))
            measured = [
                f"{last['sdri']:.2f} / {last['si_sdri']:.2f}",
                f"{last['params'] / 1e6:.2f}",
                f"{last['macs'] / 1e9:.2f}",
                last["machine"],
            ]
        rows.append(
            [
                experiment.models[0],
                str(experiment.data["name"]),
                "dense" if stage == "dense" else "SepPrune",
                f"{own['sdri']:.2f} / {own['si_sdri']:.2f}",
                f"{own['params']:.2f}",
                f"{own['macs']:.2f}",
                *measured,
            ]
        )
    heads = ["model", "data", "", "published SDRi / SI-SDRi", "parameters (M)", "MACs (G)"]
    heads += ["measured SDRi / SI-SDRi", "parameters (M)", "MACs (G)", "machine"]
    return table(heads, rows, text=(0, 1, 2, 9))
