"""Quality against MACs: every criterion at every budget, and ours against each, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from benchmarks.harness.config import Experiment

from .markdown import spread, table
from .plots import quality_plot

__all__ = ["Lead", "best_other", "lead", "of_torch_pruning", "ours", "section", "values_by_seed"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Lead:
    """A criterion of ours against another one, on the same seeds.

    Attributes:
        ours: The criterion.
        best: The other.
        level: Mean SI-SDRi in dB of ours.
        other: Of the other.
        gaps: Differences in dB, one of each seed.
    """

    ours: str
    best: str
    level: float
    other: float
    gaps: tuple[float, ...]

    @property
    def ahead(self) -> float:
        """Mean difference in dB, as it is printed."""
        return round(statistics.fmean(self.gaps), 2)

    def __str__(self) -> str:
        spread = f" ± {statistics.stdev(self.gaps):.2f}" if len(self.gaps) > 1 else ""
        return f"{self.ahead:+.2f}{spread}"


def ours(label: str) -> bool:
    """Whether a criterion is this package's."""
    return label.startswith("sepprune")


def of_torch_pruning(label: str) -> bool:
    """Whether a criterion is one of torch-pruning's, whose names these are."""
    return "Importance" in label


def values_by_seed(records: Iterable[Record], **fields: Any) -> dict[int, float]:
    """SI-SDRi in dB of the records with these values."""
    return {
        r["seed"]: r["si_sdri"] for r in records if all(r.get(k) == v for k, v in fields.items())
    }


def section(experiment: Experiment, records: list[Record]) -> list[str]:
    """A plot and two tables for every dense model."""
    lines: list[str] = []
    for name in experiment.models:
        found = [r for r in records if r["model"] == name]
        dense = next((r for r in found if r["stage"] == "dense"), None)
        runs = [r for r in found if r["stage"] != "dense"]
        if dense is None or not runs:
            continue
        lines += [
            f"### {name}",
            "",
            f"Dense: {dense['si_sdri']:.2f} dB SI-SDRi, {dense['sdri']:.2f} dB SDRi, "
            f"{dense['params']:,} parameters, {dense['macs'] / 1e6:.1f} M MACs for one second.",
            "",
            quality_plot(experiment, name, dense, runs),
            "",
            *_values(experiment, runs),
            "",
            *_comparison(experiment, runs),
            "",
        ]
    return lines


def best_other(
    experiment: Experiment,
    runs: Sequence[Record],
    seeds: Iterable[int],
    among: Callable[[str], bool] = lambda label: not ours(label),
    **where: Any,
) -> str | None:
    """The criterion with the highest mean, of those that were run on all these seeds.

    Args:
        experiment: Whose criteria these are.
        runs: Records of one model.
        seeds: At least one.
        among: Whether a criterion, by its label, is one of those to choose from.
        where: Budget and recovery.
    """
    means, asked = {}, set(seeds)
    for choice in experiment.criteria:
        values = values_by_seed(runs, criterion=choice.label, **where)
        if asked and among(choice.label) and asked <= values.keys():
            means[choice.label] = statistics.fmean(values[seed] for seed in asked)
    return max(means, key=lambda label: means[label]) if means else None


def lead(
    experiment: Experiment,
    runs: Sequence[Record],
    label: str,
    among: Callable[[str], bool] = of_torch_pruning,
    against: str | None = None,
    **where: Any,
) -> Lead | None:
    """A criterion of ours against the best other that was run on all its seeds.

    Args:
        experiment: Whose criteria these are.
        runs: Records of one model.
        label: The criterion.
        among: Whether a criterion, by its label, is one to compare with.
        against: Recovery of the others, if it is not that of ours.
        where: Budget and recovery.

    Returns:
        None if ours was not measured, or nothing else on the same seeds.
    """
    mine = values_by_seed(runs, criterion=label, **where)
    other = {**where, "recovery": against} if against else where
    best = best_other(experiment, runs, mine, among, **other)
    if best is None:
        return None
    found = values_by_seed(runs, criterion=best, **other)
    theirs = {seed: found[seed] for seed in sorted(mine)}
    return Lead(
        label,
        best,
        statistics.fmean(mine.values()),
        statistics.fmean(theirs.values()),
        tuple(mine[seed] - value for seed, value in theirs.items()),
    )


def _labels(experiment: Experiment, runs: Sequence[Record]) -> list[str]:
    """Criteria that were run, in the order of the configuration."""
    there = {r["criterion"] for r in runs}
    return [choice.label for choice in experiment.criteria if choice.label in there]


def _values(experiment: Experiment, runs: Sequence[Record]) -> list[str]:
    """SI-SDRi by budget, criterion and recovery."""
    ways = [name for name in experiment.recoveries if any(r["recovery"] == name for r in runs)]
    rows = []
    for budget in experiment.budgets:
        for label in _labels(experiment, runs):
            cells = []
            for way in ways:
                by_seed = values_by_seed(runs, criterion=label, budget=budget, recovery=way)
                cells.append(spread(list(by_seed.values()), len(experiment.seeds)))
            mine = [r for r in runs if r["criterion"] == label and r["budget"] == budget]
            if not mine:
                continue
            share = statistics.fmean(r["macs_share"] for r in mine)
            params = statistics.fmean(r["params"] for r in mine)
            choosing = statistics.median(r["choosing_seconds"] for r in mine)
            rows.append(
                [
                    f"{budget:.0%}",
                    label,
                    *cells,
                    f"{params:,.0f}",
                    f"{share:.1%}",
                    f"{choosing:.0f}",
                ]
            )
    heads = ["MACs", "criterion", *ways, "parameters", "MACs kept", "choosing (s)"]
    return table(heads, rows, text=(1,))


def _comparison(experiment: Experiment, runs: Sequence[Record]) -> list[str]:
    """Ours against the best of the others after each recovery: difference, spread, paired test."""
    rows = []
    labels = _labels(experiment, runs)
    for budget in experiment.budgets:
        for way in experiment.recoveries:
            where = {"budget": budget, "recovery": way}
            for label in filter(ours, labels):
                leads = [
                    lead(experiment, runs, label, among, **where)
                    for among in (of_torch_pruning, lambda other: not ours(other))
                ]
                rows += [
                    _against(runs, found, where)
                    for found in dict.fromkeys(leads)
                    if found is not None
                ]
    if not rows:
        return []
    heads = ["MACs", "recovery", "ours", "the best other", "ours ahead (dB)", "seeds"]
    return [
        "Ours against the best of torch-pruning's criteria that were run on the same seeds, and, "
        "where another is better, against that too. The best is chosen on these test mixtures, "
        "which favours it. *p*: two-sided paired t-test over the mean of each test mixture over "
        "the seeds.",
        "",
        *table([*heads, "p"], rows, text=(1, 2, 3)),
    ]


def _against(runs: Sequence[Record], found: Lead, where: dict[str, Any]) -> list[str]:
    """A row of the comparison."""
    seeds = values_by_seed(runs, criterion=found.ours, **where)
    sides = [_by_mixture(runs, one, where, seeds) for one in (found.ours, found.best)]
    p = float(stats.ttest_rel(*sides).pvalue)
    return [
        f"{where['budget']:.0%}",
        where["recovery"],
        found.ours,
        f"{found.best} ({found.other:.2f})",
        str(found),
        str(len(found.gaps)),
        "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _by_mixture(
    runs: Sequence[Record], label: str, where: dict[str, Any], seeds: Collection[int]
) -> list[float]:
    """SI-SDRi in dB of every test mixture, mean over seeds."""
    found = [
        r["per_mixture"]
        for r in runs
        if r["criterion"] == label
        and r["seed"] in seeds
        and all(r[k] == v for k, v in where.items())
    ]
    return [statistics.fmean(values) for values in zip(*found, strict=True)]
