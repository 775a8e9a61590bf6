"""The figures of a job as plain data, Markdown and terminal tables, and a plot of channels."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
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
    "FIGURES",
    "SCALES",
    "STAGES",
    "block_of",
    "comparison_table",
    "environment",
    "finite",
    "heading",
    "macs_by_block",
    "macs_by_part",
    "markdown_report",
    "plain_text",
    "plot_channels",
    "profile_table",
    "shown_figures",
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


def stage_figures(
    cost: Profile, latency: Latency, evaluation: Evaluation | None = None
) -> dict[str, Any]:
    """The figures of one model, as they stand in ``report.json``.

    Args:
        cost: Its parameters, and MACs on the example input.
        latency: Its time for the same input, in ms, and real-time factor.
        evaluation: Its quality on the test mixtures, in dB, if it was evaluated.

    Returns:
        ``si_sdri``, ``sdri``, ``params``, ``macs``, ``latency_ms``, ``rtf`` and their like.
    """
    return {
        **({} if evaluation is None else evaluation.as_dict()),
        "params": cost.params,
        "macs": cost.macs,
        "latency_ms": latency.median_ms,
        "latency_iqr_ms": latency.iqr,
        "rtf": latency.rtf,
        "macs_by_part": macs_by_part(cost),
        "macs_by_block": macs_by_block(cost),
    }


def macs_by_part(cost: Profile) -> dict[str, int]:
    """MACs of encoder, separator, decoder and other, those of none left out."""
    return {name: part.macs for name, part in cost.parts.items() if part.macs}


def macs_by_block(cost: Profile) -> dict[str, int]:
    """MACs of the blocks of a model, in its order: layers whose names share a number.

    ``masker.TCN.3.shared_block.0`` and ``masker.TCN.3.res_conv`` are of the block ``masker.TCN.3``,
    ``masker.bottleneck.1`` is of ``masker.bottleneck``.
    """
    found: dict[str, int] = {}
    for row in cost.rows:
        if row.macs:
            block = block_of(row.name)
            found[block] = found.get(block, 0) + row.macs
    return found


def block_of(name: str) -> str:
    """The block of a layer, by its dotted name."""
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[: place + 1])
    return ".".join(parts[:-1]) or name


def finite(records: Iterable[Mapping[str, float]]) -> list[dict[str, float | None]]:
    """Records of a search or a recovery as JSON holds them: None for NaN and infinity."""
    return [
        {key: value if math.isfinite(value) else None for key, value in record.items()}
        for record in records
    ]


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
    for name in _headings(report):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
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
    for name in ("Layer", "Kind"):
        table.add_column(name)
    for name in ("Parameters", "share", "MACs (M)", "share"):
        table.add_column(name, justify="right")
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


def markdown_report(report: Mapping[str, Any], plot: str | None = None) -> str:
    """The report as Markdown: figures by stage, channels by group, and how they came about.

    Args:
        report: What the job writes to ``report.json``.
        plot: File name of the plot of channels, if there is one.
    """
    lines = ["# From a trained separator to a smaller one", ""]
    headings = _headings(report)
    lines += [_line(["Model", *headings]), _line(["---", *["---:"] * len(headings)])]
    lines += [_line([stage, *cells]) for stage, cells in _rows(report)]
    lines += ["", "## Channels kept", "", _line(["Group", "Kept", "Of"])]
    lines += [_line(["---", "---:", "---:"])]
    lines += [_line([f"`{name}`", kept, size]) for name, (kept, size) in report["groups"].items()]
    lines += ["", f"![Channels kept]({plot})"] if plot is not None else []
    lines += ["", "## How", ""]
    for key in ("model", "data", "settings", "seconds", "machine", "threads", "versions", "date"):
        if key in report:
            lines.append(f"- {key}: {plain_text(report[key])}")
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


def shown_figures(models: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Those of :data:`FIGURES` that every model has."""
    models = list(models)
    return [figure for figure in FIGURES if all(figure[0] in model for model in models)]


def heading(figure: tuple[str, str, str, str]) -> str:
    """What stands above a figure: its name and unit."""
    _, name, unit, _ = figure
    return f"{name} ({unit})" if unit else name


def _headings(report: Mapping[str, Any]) -> list[str]:
    return [heading(figure) for figure in shown_figures(_stages(report))]


def _stages(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [report[stage] for stage in STAGES if stage in report]


def _rows(report: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Stage and its cells, costs followed by their share of the dense model's."""
    dense = report.get("dense", {})
    shown = shown_figures(_stages(report))
    return [(stage, _cells(report[stage], dense, shown)) for stage in STAGES if stage in report]


def _cells(
    figures: Mapping[str, Any],
    dense: Mapping[str, Any],
    shown: Sequence[tuple[str, str, str, str]],
) -> list[str]:
    cells = []
    for key, _, unit, pattern in shown:
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


def plain_text(value: Any) -> str:
    """A setting or a figure for people to read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_text(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
