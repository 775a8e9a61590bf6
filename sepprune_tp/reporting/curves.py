"""The curves of the page: quality by cost, and how search and recovery went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import Line, line_chart, smoothed, thinned
from .markup import Markup, element

__all__ = ["quality", "recovery", "search"]

Record = Mapping[str, Any]


def quality(models: Sequence[tuple[str, Record]]) -> Sequence[Markup]:
    """SI-SDRi against MACs, if two models or more have both.

    Args:
        models: Names and figures, the dense model first.
    """
    known = [(name, figures) for name, figures in models if "si_sdri" in figures]
    if len(known) < 2 or not known[0][1]["macs"]:
        return ()
    dense = known[0][1]["macs"]
    family = len({figures["macs"] for _, figures in known}) > 2
    if family:
        known.sort(key=lambda entry: entry[1]["macs"])
    points = [(100 * figures["macs"] / dense, figures["si_sdri"]) for _, figures in known]
    names = [name for name, _ in known]
    told = "; ".join(f"{n}: {x:.1f} %, {y:.2f} dB" for n, (x, y) in zip(names, points, strict=True))
    low, high = min(y for _, y in points), max(y for _, y in points)
    room = max(0.5, 0.15 * (high - low))
    return [
        line_chart(
            "chart-quality",
            [Line("models", points, labels=names)],
            title="SI-SDRi against the share of MACs that is left",
            summary=told,
            x_label="MACs (% of the dense model)",
            y_label="SI-SDRi (dB)",
            x_range=(0, 105),
            y_range=(low - room, high + room),
        )
    ]


def search(records: Sequence[Record]) -> Sequence[Markup]:
    """Loss and expected cost of a search, by step.

    Args:
        records: One a step, as in :class:`~sepprune_tp.search.SearchResult`.
    """
    if len(records) < 2:
        return ()
    charts = []
    losses = [(step, r["loss"]) for step, r in enumerate(records, 1) if r.get("loss") is not None]
    if len(losses) > 1:
        mean = smoothed(losses, max(1, len(losses) // 20))
        lines = [Line("each step", thinned(losses), "faint"), Line("running mean", thinned(mean))]
        charts.append(
            line_chart(
                "chart-loss",
                lines,
                title="Loss of the search by step",
                summary=f"Running mean from {mean[0][1]:.2f} to {mean[-1][1]:.2f} dB in "
                f"{len(records)} steps.",
                x_label="step of the search",
                y_label="Loss (dB, lower is better)",
            )
        )
    names = [key.removesuffix("_limit") for key in records[-1] if key.endswith("_limit")]
    charts += [_cost(name, records) for name in names]
    if not names and (costs := _points(records, "macs")):
        charts.append(_cost_chart("macs", [Line("MACs", costs)], costs))
    note = (
        "Cost is what the gates are expected to spend while they learn. The limit tightens from "
        "the dense model to the budget, and the channels that are kept in the end meet it."
    )
    return [*charts, element("p", note, class_="quiet")] if names else charts


def recovery(records: Sequence[Record]) -> Sequence[Markup]:
    """Validation SI-SDR of a recovery, by step.

    Args:
        records: One a validation, as in :class:`~sepprune_tp.recovery.RecoveryResult`.
    """
    points = [(r["step"], r["si_sdr"]) for r in records if r.get("si_sdr") is not None]
    if len(points) < 2:
        return ()
    best = max(points, key=lambda point: point[1])
    return [
        line_chart(
            "chart-recovery",
            [Line("validation", thinned(points), dots=len(points) <= 40)],
            title="Validation SI-SDR of the recovery by step",
            summary=f"From {points[0][1]:.2f} dB before the first step to {points[-1][1]:.2f} dB; "
            f"the best is {best[1]:.2f} dB at step {best[0]}.",
            x_label="step of the recovery",
            y_label="Validation SI-SDR (dB)",
        )
    ]


def _cost(name: str, records: Sequence[Record]) -> Markup:
    """The expected cost of one resource and the limit that tightens."""
    expected, limit = (_points(records, f"{name}_{what}") for what in ("expected", "limit"))
    lines = [Line("limit", limit, "second"), Line("expected cost", expected)]
    return _cost_chart(name, lines, expected)


def _cost_chart(
    name: str, lines: Sequence[Line], expected: Sequence[tuple[float, float]]
) -> Markup:
    word = {"macs": "MACs", "params": "parameters"}.get(name, name)
    return line_chart(
        f"chart-{name}",
        lines,
        title=f"Expected {word} against the limit, by step of the search",
        summary="; ".join(f"{line.name} {line.points[-1][1]:.1f} % at the end" for line in lines),
        x_label="step of the search",
        y_label=f"Expected {word} (% of the dense model)",
        x_range=(0, max(1, expected[-1][0])),
        y_range=(0, max(105, *(y for _, y in expected))),
    )


def _points(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Steps and percentages, thinned."""
    found = [(step, 100 * r[key]) for step, r in enumerate(records, 1) if r.get(key) is not None]
    return thinned(found)
