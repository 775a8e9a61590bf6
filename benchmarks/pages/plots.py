"""Plots of the page of results: SVG files that are the same, byte for byte, of the same records."""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.harness.config import Experiment
from sepprune_tp.files import make_folder, write_text

__all__ = ["FOLDER", "curve_plot", "quality_plot", "save"]

FOLDER = Path(__file__).resolve().parents[1] / "plots"
STYLE = {
    "svg.hashsalt": "sepprune",  # else ids are random
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
Record = dict[str, Any]


def save(figure: Figure, name: str, text: str) -> str:
    """Write a plot through a temporary name; the Markdown that shows it.

    Args:
        figure: It is closed.
        name: Of the file, without ending.
        text: What is seen, for who does not see it.
    """
    path = make_folder(FOLDER) / f"{name}.svg"
    drawn = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    # Matplotlib ends some lines with a space.
    lines = [line.rstrip() for line in drawn.getvalue().splitlines()]
    write_text(path, "\n".join(lines) + "\n")
    return f"![{text}](plots/{path.name})"


def quality_plot(
    experiment: Experiment, model: str, dense: Record, runs: Sequence[Record], most: int = 7
) -> str:
    """SI-SDRi against the share of the MACs, one panel for every recovery.

    The criteria shown are ours, the paper's, and the best others by their mean.
    """
    ways = [name for name in experiment.recoveries if any(r["recovery"] == name for r in runs)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(ways), figsize=(3.4 * len(ways), 3.4), sharey=True, squeeze=False
        )
        for axis, way in zip(axes[0], ways, strict=True):
            curves = _curves([r for r in runs if r["recovery"] == way])
            for label in _shown(curves, most):
                shares, means, spreads = zip(*curves[label], strict=True)
                own = label.startswith("sepprune")
                axis.errorbar(
                    [100 * share for share in shares],
                    means,
                    yerr=spreads,
                    label=label,
                    marker="o" if own else ".",
                    linewidth=2 if own else 1,
                    capsize=2,
                )
            axis.axhline(dense["si_sdri"], color="black", linestyle=":", linewidth=1)
            axis.set_title(way)
            axis.set_xlabel("MACs kept (%)")
            axis.legend(fontsize=6)
        axes[0][0].set_ylabel("SI-SDRi (dB)")
        figure.tight_layout()
        name = f"{experiment.name.replace('/', '_')}_{model}"
        return save(figure, name, f"SI-SDRi of {model} against MACs, by criterion")


def curve_plot(name: str, title: str, lines: Sequence[tuple[str, list[int], list[float]]]) -> str:
    """Validation SI-SDR against steps of training, on a logarithmic axis.

    Args:
        name: Of the file.
        title: Above it.
        lines: Label, steps and dB.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.5, 3.4))
        for label, steps, values in lines:
            axis.plot([max(step, 1) for step in steps], values, label=label, linewidth=1.5)
        axis.set_xscale("log")
        axis.set_xlabel("steps of training")
        axis.set_ylabel("validation SI-SDR (dB)")
        low = min((min(values[1:]) for _, _, values in lines if len(values) > 1), default=0.0)
        axis.set_ylim(bottom=max(-5.0, low))
        axis.set_title(title)
        axis.legend(fontsize=7)
        figure.tight_layout()
        return save(figure, name, f"{title}: validation SI-SDR by step")


def _curves(runs: Sequence[Record]) -> dict[str, list[tuple[float, float, float]]]:
    """By criterion: share of the MACs, mean and standard deviation over seeds, by budget."""
    grouped: defaultdict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in runs:
        grouped[record["criterion"], record["budget"]].append(record)
    curves: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for (label, _), found in sorted(grouped.items()):
        values = [r["si_sdri"] for r in found]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        share = statistics.fmean(r["macs_share"] for r in found)
        curves[label].append((share, statistics.fmean(values), deviation))
    return dict(curves)


def _shown(curves: dict[str, list[tuple[float, float, float]]], most: int) -> list[str]:
    """Ours, the paper's, then the best others."""
    always = [label for label in curves if label.startswith(("sepprune", "paper"))]
    others = [label for label in curves if label not in always]
    others.sort(key=lambda label: -statistics.fmean(row[1] for row in curves[label]))
    return [*sorted(always), *others[: max(0, most - len(always))]]
