"""Report of a family of models from one search: figures as Markdown, and the curve as a plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sepprune_tp.errors import require

from .files import write_figure

__all__ = ["family_markdown", "plot_family"]


def family_markdown(report: Mapping[str, Any], plot: str) -> str:
    """The family as Markdown: a row a model, the dense one first.

    Args:
        report: Holds ``dense`` and ``members`` with ``params``, ``macs`` and, where mixtures were
            separated, ``si_sdri`` and ``sdri`` in dB; ``settings`` and what
            :func:`sepprune_tp.reporting.summary.environment` says.
        plot: File name of the plot.

    Returns:
        The text.
    """
    dense = report["dense"]
    scored = "si_sdri" in dense
    headings = ["Model", "Budget", "MACs (M)", "Params (k)"]
    headings += ["SI-SDRi (dB)", "SDRi (dB)"] * scored
    lines = ["# One search, several budgets", "", _line(headings)]
    lines.append(_line(["---", "---"] + ["---:"] * (len(headings) - 2)))
    for entry in (dense, *report["members"]):
        cells = [
            f"`{entry['file']}`",
            entry.get("budget", "dense"),
            f"{entry['macs'] / 1e6:,.1f} ({entry['macs'] / dense['macs']:.1%})",
            f"{entry['params'] / 1e3:,.1f} ({entry['params'] / dense['params']:.1%})",
        ]
        cells += [f"{entry[key]:.2f}" for key in ("si_sdri", "sdri") if scored]
        lines.append(_line(cells))
    lines += ["", f"![Cost and quality of the family]({plot})", ""]
    if scored:
        lines.append(f"Before recovery, on {report['mixtures']} mixtures: {report['data']}.")
    lines += [
        f"- {key}: {report[key]}"
        for key in ("settings", "machine", "threads", "versions", "date")
        if key in report
    ]
    return "\n".join(lines) + "\n"


def plot_family(path: str | os.PathLike[str], report: Mapping[str, Any]) -> Path:
    """Draw SI-SDRi against MACs, or parameters against MACs where nothing was separated.

    Args:
        path: PNG to write.
        report: As for :func:`family_markdown`.

    Returns:
        The path.
    """
    require("matplotlib", "cli", "Drawing the curve of a family")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dense = report["dense"]
    scored = "si_sdri" in dense
    entries: Sequence[Mapping[str, Any]] = sorted(
        (*report["members"], dense), key=lambda entry: entry["macs"]
    )
    macs = [100 * entry["macs"] / dense["macs"] for entry in entries]
    heights = [
        entry["si_sdri"] if scored else 100 * entry["params"] / dense["params"] for entry in entries
    ]
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(macs, heights, "o-", color="#2a6fbb")
    for entry, x, y in zip(entries, macs, heights, strict=True):
        label = entry.get("budget", "dense")
        axes.annotate(label, (x, y), (4, -12), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 108)
    axes.set_xlabel("MACs (% of the dense model)")
    axes.set_ylabel("SI-SDRi (dB), before recovery" if scored else "parameters (% of the dense)")
    axes.set_title("One search, several budgets")
    axes.grid(alpha=0.3)
    return write_figure(path, figure)


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
