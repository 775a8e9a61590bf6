"""By how much ours is ahead of the best of torch-pruning's criteria, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COMPARED", "Lead", "best_baseline", "by_gates", "by_seed", "lead", "summary"]

Record = dict[str, Any]
State = tuple[str, str]

TARGETS = {0.5: (1.5, 0.3), 0.25: (3.0, 0.5)}
"""By budget: dB that ours is to be ahead of torch-pruning's best, before and after recovery."""
COMPARED: tuple[tuple[str, State, State, int | None], ...] = (
    ("as pruned", ("pruned", "none"), ("pruned", "none"), 0),
    ("recovered", ("recovered", "none"), ("recovered", "none"), 1),
    ("ours reconstructed, theirs as pruned", ("pruned", "least squares"), ("pruned", "none"), 0),
    ("both reconstructed", ("pruned", "least squares"), ("pruned", "least squares"), None),
    ("both repaired", ("recovered", "least squares"), ("recovered", "least squares"), 1),
    ("ours repaired, theirs recovered", ("recovered", "least squares"), ("recovered", "none"), 1),
)
"""Name, stage and repair of ours, of torch-pruning's, and which of the targets belongs to it."""


@dataclass(frozen=True)
class Lead:
    """Ours against the best baseline.

    Attributes:
        ours: Mean SI-SDRi in dB over the seeds that both have.
        baseline: The torch-pruning criterion.
        theirs: Its mean SI-SDRi in dB over these seeds.
        seeds: How many.
        spread: Standard deviation over the seeds of the difference in dB; None of one.
    """

    ours: float
    baseline: str
    theirs: float
    seeds: int
    spread: float | None

    @property
    def ahead(self) -> float:
        """In dB, as it is printed."""
        return round(self.ours - self.theirs, 2)


def by_gates(criterion: str) -> bool:
    """Whether a criterion learns gates: ours or the paper's."""
    return criterion.startswith(("sepprune", "paper"))


def by_seed(records: Iterable[Record], **fields: Any) -> dict[int, float]:
    """SI-SDRi in dB of the records with these values."""
    return {
        r["seed"]: r["si_sdri"] for r in records if all(r.get(k) == v for k, v in fields.items())
    }


def best_baseline(
    records: Sequence[Record], budget: float, state: State, seeds: Collection[int] | None = None
) -> tuple[str, dict[int, float]] | None:
    """The best torch-pruning criterion, which is chosen on the test mixtures themselves.

    Every criterion was tried on the first seed, some on others. If the best of the first seed is
    among those with most seeds, it is the one of these with the highest mean; else it is that one,
    on the seeds that it has.

    Args:
        records: Of one model.
        budget: Share of the MACs.
        state: Stage (``pruned`` or ``recovered``) and repair (``none`` or ``least squares``).
        seeds: Those that count; default: all.

    Returns:
        Its name, and SI-SDRi in dB by seed; None if there is no baseline.
    """
    stage, repair = state
    found: dict[str, dict[int, float]] = {}
    for name in {r["criterion"] for r in records if not by_gates(r["criterion"])}:
        values = by_seed(records, criterion=name, budget=budget, stage=stage, repair=repair)
        values = {s: v for s, v in values.items() if seeds is None or s in seeds}
        if values:
            found[name] = values
    if not found:
        return None
    first = min(seed for values in found.values() for seed in values)
    top = max(found, key=lambda name: (found[name].get(first, -99.0), name))
    most = max(len(values) for values in found.values())
    if len(found[top]) == most:
        whole = [name for name in found if len(found[name]) == most]
        top = max(whole, key=lambda name: (statistics.fmean(found[name].values()), name))
    return top, found[top]


def lead(
    records: Sequence[Record], criterion: str, budget: float, ours: State, theirs: State
) -> Lead | None:
    """Ours in one state against the best baseline in another; None if one was not measured."""
    stage, repair = ours
    own = by_seed(records, criterion=criterion, budget=budget, stage=stage, repair=repair)
    best = best_baseline(records, budget, theirs, own)
    if best is None:
        return None
    name, other = best
    gaps = [own[seed] - other[seed] for seed in other]
    return Lead(
        statistics.fmean(own[seed] for seed in other),
        name,
        statistics.fmean(other.values()),
        len(other),
        statistics.stdev(gaps) if len(gaps) > 1 else None,
    )


def summary(models: Sequence[Sequence[Record]]) -> list[str]:
    """One row per model, budget, criterion of ours and what is compared."""
    rows = [
        "| model | MACs | criterion | both | seeds | ours | best of torch-pruning's | ahead "
        "| target | |",
        "|---|---:|---|---|---:|---:|---|---:|---:|---|",
    ]
    for records in models:
        runs = [r for r in records if r["stage"] != "dense"]
        ours = sorted({r["criterion"] for r in runs if r["criterion"].startswith("sepprune")})
        for budget in sorted({r["budget"] for r in runs}, reverse=True):
            for criterion in ours:
                for title, own, theirs, place in COMPARED:
                    found = lead(runs, criterion, budget, own, theirs)
                    if found is None:
                        continue
                    targets = TARGETS.get(budget)
                    target = None if targets is None or place is None else targets[place]
                    rows.append(
                        f"| {runs[0]['model']} | {budget:.0%} | {criterion} | {title} "
                        f"| {found.seeds} | {found.ours:.2f} "
                        f"| {found.theirs:.2f} ({found.baseline}) | {_verdict(found, target)} |"
                    )
    return rows


def _verdict(found: Lead, target: float | None) -> str:
    """Three cells: by how much, the target, and whether it is met, as they are printed."""
    spread = "" if found.spread is None else f" ± {found.spread:.2f}"
    if target is None:
        return f"{found.ahead:+.2f}{spread} | |"
    missed = round(target - found.ahead, 2)
    verdict = "met" if missed <= 0 else f"missed by {missed:.2f}"
    return f"{found.ahead:+.2f}{spread} | {target:.1f} | {verdict}"
