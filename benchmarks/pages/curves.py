"""How soon a pruned model is good again: by step, against the same shape from scratch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import criteria
from benchmarks.harness.config import Experiment
from benchmarks.harness.dense import description_of

from .markdown import spread, table, times
from .plots import curve_plot

__all__ = [
    "after_an_epoch",
    "against_scratch",
    "dense_takes",
    "epoch_mixtures",
    "first_reached",
    "heard",
    "mean_curves",
    "searched",
    "section",
    "sooner",
    "sooner_twice",
]

Record = dict[str, Any]
Curves = dict[tuple[str, float, str], list[tuple[int, float]]]
"""Step and dB, by criterion, budget and recovery."""


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """A plot for every dense model, and a table of each comparison."""
    lines: list[str] = []
    soon: list[list[str]] = []
    scratch: list[list[str]] = []
    epoch = epoch_mixtures(experiment)
    for name in experiment.models:
        found = [r for r in records if r["model"] == name]
        dense = next((r for r in found if r["stage"] == "dense"), None)
        curves = mean_curves(found)
        if dense is None or not curves:
            continue
        training = description_of(name, str(experiment.data["name"]))
        own = [(int(row["step"]), float(row["si_sdr"])) for row in training["history"]]
        shown = [(_name(key), *_points(curve)) for key, curve in curves.items()]
        shown.append(("dense, its own training", *_points(own)))
        lines += [f"### {name}", "", curve_plot(f"{experiment.name}_{name}", name, shown), ""]
        soon += after_an_epoch(name, dense, found, heard(training), epoch)
        scratch += against_scratch(name, found, curves)
    if not lines:
        return []
    first = ["model", "criterion", "MACs", "training", "seeds"]
    factors = ["sooner by", "counting the search"]
    heads = [*first, "before", "after one epoch", "share of dense", "dense takes", *factors]
    heads_scratch = [*first[:3], "seeds", "trained", "from scratch", *factors]
    lines += [
        f"One epoch: the {epoch} mixtures that hold as much speech as the training recordings. "
        "*Before*, *after one epoch*: test SI-SDRi in dB; *share of dense*: of the dense model's. "
        "*Dense takes*: mixtures that the dense model's own training, from random weights, took to "
        "the same validation SI-SDR (it looked every 500 steps); *sooner by*: these over the "
        "epoch's; *counting the search*: over those and the mixtures on which gates were learned.",
        "",
        *table(heads, soon, text=(0, 1, 3)),
        "",
    ]
    if not scratch:
        return lines
    return [
        *lines,
        "The same shape from random weights, test SI-SDRi in dB. *Sooner by*: steps that training "
        "from scratch takes to the best validation SI-SDR that both reach, over those that the "
        "pruned model takes to the same.",
        "",
        *table(heads_scratch, scratch, text=(0, 1)),
    ]


def epoch_mixtures(experiment: Experiment) -> int:
    """Mixtures in an epoch: as many as its recoveries of one epoch take, 1 if it has none."""
    found = (one for name, one in experiment.recoveries.items() if name.startswith("one epoch"))
    return max((one.steps * one.batch_size for one in found), default=1)


def heard(training: Record) -> list[tuple[int, float]]:
    """Mixtures that a dense model's training had heard, and validation SI-SDR in dB.

    Args:
        training: The description of a dense model.
    """
    size = int(training["training"]["batch_size"])
    return [(int(row["step"]) * size, float(row["si_sdr"])) for row in training["history"]]


def dense_takes(own: Sequence[tuple[int, float]], runs: Sequence[Record]) -> int | None:
    """Mixtures that the dense model's own training took to the mean level of trained models.

    Args:
        own: What ``heard`` gives.
        runs: Records of trained models, one a seed.
    """
    return first_reached(own, statistics.fmean(run["validation_si_sdr"] for run in runs))


def first_reached(curve: Sequence[tuple[int, float]], level: float) -> int | None:
    """First step at which a curve is at a level, None if it never is."""
    return next((step for step, value in curve if value >= level), None)


def sooner(
    trained: Sequence[tuple[int, float]],
    scratch: Sequence[tuple[int, float]],
    before: float = 0,
) -> float:
    """How many times sooner a curve is at the best level that it and the one from scratch reach.

    Args:
        trained: Step and dB of what was pruned.
        scratch: Of what was not.
        before: Steps as which pruning counts.

    Returns:
        The ratio of the steps; infinite if it begins there.
    """
    level = min(max(value for _, value in curve) for curve in (trained, scratch))
    slow, fast = first_reached(scratch, level), first_reached(trained, level)
    assert slow is not None and fast is not None
    return slow / (fast + before) if fast + before else math.inf


def sooner_twice(
    runs: Sequence[Record],
    trained: Sequence[tuple[int, float]],
    scratch: Sequence[tuple[int, float]],
) -> tuple[float, float]:
    """``sooner`` of what was pruned, not counting the search and counting it.

    Args:
        runs: Records of the trained models.
        trained: Their mean curve.
        scratch: That from random weights, of as many mixtures a step.
    """
    before = searched(runs[0]) / int(runs[0]["config"]["recovery"]["batch_size"])
    return sooner(trained, scratch), sooner(trained, scratch, before)


def searched(run: Record) -> int:
    """Mixtures on which the gates of a record's model were learned."""
    chosen = run["config"]["criterion"]
    return criteria.criterion(chosen["name"], chosen["options"]).mixtures


def _name(key: tuple[str, float, str]) -> str:
    criterion, budget, recovery = key
    return f"{recovery} ({criterion} {budget:.0%})"


def _points(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def mean_curves(
    records: Sequence[Record],
) -> dict[tuple[str, float, str], list[tuple[int, float]]]:
    """Mean validation SI-SDR over the seeds of what was trained."""
    records = [record for record in records if record.get("history")]
    keys = list(dict.fromkeys((r["criterion"], r["budget"], r["recovery"]) for r in records))
    curves = {}
    for criterion, budget, recovery in keys:
        histories = [r["history"] for r in _of(records, criterion, budget, recovery)]
        curves[criterion, budget, recovery] = [
            (rows[0]["step"], statistics.fmean(row["si_sdr"] for row in rows))
            for rows in zip(*histories, strict=False)
        ]
    return curves


def _of(records: Sequence[Record], *key: Any) -> list[Record]:
    """The records of a (criterion, budget, recovery), one a seed."""
    return [r for r in records if (r["criterion"], r["budget"], r["recovery"]) == key]


def _levels(records: Sequence[Record], *key: Any) -> list[float]:
    """SI-SDRi in dB of these."""
    return [record["si_sdri"] for record in _of(records, *key)]


def _begun_as(run: Record, found: Sequence[Record]) -> list[Record]:
    """Records of what a trained model was before its training, one a seed."""
    first = run["config"]["recovery"]["first"]
    alike = [r for r in found if (r["criterion"], r["budget"]) == (run["criterion"], run["budget"])]
    return [
        r for r in alike if r["stage"] == "pruned" and r["config"]["recovery"]["first"] == first
    ]


def after_an_epoch(
    name: str,
    dense: Record,
    found: Sequence[Record],
    own: Sequence[tuple[int, float]],
    epoch: int,
) -> list[list[str]]:
    """A row for everything that was trained for one epoch.

    Args:
        name: Of the model.
        dense: Its record.
        found: Records of the model.
        own: What ``heard`` gives of the dense model.
        epoch: Mixtures in an epoch.
    """
    rows = []
    ways = dict.fromkeys((r["criterion"], r["budget"], r["recovery"]) for r in found)
    for criterion, budget, way in ways:
        if not way.startswith("one epoch"):
            continue
        runs = _of(found, criterion, budget, way)
        once = [run["si_sdri"] for run in runs]
        before = [r["si_sdri"] for r in _begun_as(runs[0], found)]
        slow = dense_takes(own, runs) or math.inf
        rows.append(
            [
                name,
                criterion,
                f"{budget:.0%}",
                way.removeprefix("one epoch").lstrip(", ") or "plain",
                str(len(once)),
                f"{statistics.fmean(before):.2f}" if before else "",
                spread(once, len(once)),
                f"{statistics.fmean(once) / dense['si_sdri']:.1%}",
                "never" if slow == math.inf else f"{slow:,}",
                times(slow / epoch, ""),
                times(slow / (epoch + searched(runs[0])), ""),
            ]
        )
    return rows


def against_scratch(name: str, found: Sequence[Record], curves: Curves) -> list[list[str]]:
    """A row for every criterion and budget that was trained, and begun from scratch."""
    rows = []
    for criterion, budget in dict.fromkeys((c, b) for c, b, _ in curves):
        trained = curves.get((criterion, budget, "recovered"))
        scratch = curves.get((criterion, budget, "scratch"))
        if trained is None or scratch is None:
            continue
        factors = sooner_twice(_of(found, criterion, budget, "recovered"), trained, scratch)
        ends = [_levels(found, criterion, budget, w) for w in ("recovered", "scratch")]
        steps = [curve[-1][0] for curve in (trained, scratch)]
        rows.append(
            [
                name,
                criterion,
                f"{budget:.0%}",
                " / ".join(str(len(values)) for values in ends),
                *(
                    f"{spread(v, len(v))} after {n:,}" if v else ""
                    for v, n in zip(ends, steps, strict=True)
                ),
                *(times(factor, "at once") for factor in factors),
            ]
        )
    return rows
