"""The figures of a job as plain data, Markdown and terminal tables, and a plot of channels."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sepprune_tp.errors import require
from sepprune_tp.evaluate import Evaluation
from sepprune_tp.measure.latency import Latency
from sepprune_tp.profile import Profile

from .files import write_figure

__all__ = [
    "STAGES",
    "comparison_table",
    "environment",
    "markdown_report",
    "plot_channels",
    "profile_table",
    "stage_figures",
]

STAGES = ("dense", "pruned", "recovered")
PURPOSE = "Showing a report"
# Key, heading, unit and format of each figure.
FIGURES = (
    ("si_sdri", "SI-SDRi", "dB", "{:.2f}"),
    ("sdri", "SDRi", "dB", "{:.2f}"),
    ("params", "Params", "k", "{:,.1f}"),
    ("macs", "MACs", "M", "{:,.1f}"),
    ("latency_ms", "Latency", "ms", "{:.1f}"),
    ("rtf", "RTF", "", "{:.4f}"),
)
SCALES = {"k": 1e3, "M": 1e6}


def stage_figures(evaluation: Evaluation, cost: Profile, latency: Latency) -> dict[str, Any]:
    """The figures of one model, as they stand in ``report.json``.

    Args:
        evaluation: Its quality on the test mixtures, in dB.
        cost: Its parameters, and MACs on the example input.
        latency: Its time for the same input, in ms, and real-time factor.

    Returns:
        ``si_sdri``, ``sdri``, ``params``, ``macs``, ``latency_ms``, ``rtf`` and their like.
    """
    return {
        **evaluation.as_dict(),
        "params": cost.params,
        "macs": cost.macs,
        "latency_ms": latency.median_ms,
        "latency_iqr_ms": latency.iqr,
        "rtf": latency.rtf,
    }


def environment() -> dict[str, Any]:
    """Versions, machine and date, so that figures can be told apart later."""
    versions = {"python": platform.python_version()}
    for package in ("sepprune-tp", "torch", "torch-pruning", "asteroid"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def comparison_table(report: Mapping[str, Any], title: str | None = None) -> Any:
    """A rich table: a row a stage, with shares of the dense model's cost.

    Args:
        report: Holds figures under some of ``dense``, ``pruned`` and ``recovered``.
        title: Shown above.

    Returns:
        A ``rich.table.Table``.
    """
    table = require("rich.table", "cli", PURPOSE).Table(title=title)
    table.add_column("Model")
    for heading in _headings():
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for stage, cells in _rows(report):
        table.add_row(stage, *cells)
    return table


def profile_table(cost: Profile, rows: int = 15) -> Any:
    """A rich table of a profile: the parts, then the layers with most MACs.

    Args:
        cost: The profile.
        rows: How many layers to show.

    Returns:
        A ``rich.table.Table``.
    """
    table = require("rich.table", "cli", PURPOSE).Table(
        title=f"{cost.model}: {cost.params:,} parameters, {cost.macs / 1e6:,.1f} M MACs on "
        f"{', '.join(map(str, cost.shapes))}"
    )
    for heading in ("Layer", "Kind"):
        table.add_column(heading)
    for heading in ("Parameters", "share", "MACs (M)", "share"):
        table.add_column(heading, justify="right")
    for name, part in cost.parts.items():
        table.add_row(name, "", *_costs(part.params, part.params_share, part.macs, part.share))
    table.add_section()
    heaviest = sorted(cost.rows, key=lambda row: -row.macs)
    for row in heaviest[:rows]:
        table.add_row(
            row.name or "(model)",
            row.kind,
            *_costs(row.params, row.params_share, row.macs, row.share),
        )
    if len(heaviest) > rows:
        table.caption = f"{rows} of {len(heaviest)} layers; --rows shows more"
    return table


def markdown_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: figures by stage, channels by group, and how they came about.

    Args:
        report: What the job writes to ``report.json``.
    """
    lines = ["# From a trained separator to a smaller one", ""]
    lines += [_line(["Model", *_headings()]), _line(["---", *["---:"] * len(FIGURES)])]
    lines += [_line([stage, *cells]) for stage, cells in _rows(report)]
    lines += ["", "## Channels kept", "", _line(["Group", "Kept", "Of"])]
    lines += [_line(["---", "---:", "---:"])]
    lines += [_line([f"`{name}`", kept, size]) for name, (kept, size) in report["groups"].items()]
    lines += ["", "![Channels kept](channels.png)", "", "## How", ""]
    for key in ("data", "settings", "seconds", "machine", "threads", "versions", "date"):
        if key in report:
            lines.append(f"- {key}: {_plain(report[key])}")
    return "\n".join(lines) + "\n"


def plot_channels(path: str | os.PathLike[str], groups: Mapping[str, tuple[int, int]]) -> Path:
    """Draw a bar a group: channels kept, out of channels before.

    Args:
        path: PNG to write.
        groups: Name of a group to channels kept and channels before.

    Returns:
        The path.
    """
    require("matplotlib", "cli", "Drawing the plot of channels")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(groups)
    kept, before = ([groups[name][i] for name in names] for i in (0, 1))
    figure = Figure(figsize=(8, 1.4 + 0.24 * max(1, len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(names, before, color="#d5d9e0", label="before")
    axes.barh(names, kept, color="#2a6fbb", label="kept")
    for row, (some, most) in enumerate(zip(kept, before, strict=True)):
        axes.text(most, row, f" {some}/{most}", va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(before, default=1))
    axes.set_xlabel("channels")
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("Channels kept, by group of coupled channels (named after its first layer)")
    figure.legend(loc="outside lower right", ncols=2, fontsize=8)
    return write_figure(path, figure)


def _headings() -> list[str]:
    return [f"{heading} ({unit})" if unit else heading for _, heading, unit, _ in FIGURES]


def _rows(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Stage and its cells, costs followed by their share of the dense model's."""
    dense = report.get("dense", {})
    return [(stage, _cells(report[stage], dense)) for stage in STAGES if stage in report]


def _cells(figures: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    cells = []
    for key, _, unit, pattern in FIGURES:
        value = figures[key]
        text = pattern.format(value / SCALES.get(unit, 1))
        if key in ("params", "macs", "latency_ms") and figures is not dense and dense:
            text += f" ({value / dense[key]:.0%})"
        cells.append(text)
    return cells


def _costs(params: int, params_share: float, macs: int, share: float) -> list[str]:
    return [f"{params:,}", f"{params_share:.1%}", f"{macs / 1e6:,.2f}", f"{share:.1%}"]


def _line(cells: list[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:.1f}" if isinstance(value, float) else str(value)
