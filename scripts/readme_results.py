"""Write the lines of results in README.md from the records under benchmarks/results.

Usage: python scripts/readme_results.py [--check]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NAMES = {
    "sepprune": "ours",
    "GroupTaylorImportance": "Taylor",
    "GroupMagnitudeImportance": "magnitude",
}

Record = dict[str, Any]


def mean(records: list[Record], **fields: Any) -> float:
    """Mean SI-SDRi in dB of the records with these values."""
    found = [r["si_sdri"] for r in records if all(r.get(k) == v for k, v in fields.items())]
    return statistics.fmean(found)


def budget_line(records: list[Record], budget: float) -> str:
    """One budget: before and after recovery, by criterion."""
    parts = []
    for stage in ("pruned", "recovered"):
        figures = ", ".join(
            f"{label} {mean(records, budget=budget, stage=stage, criterion=name):.1f}"
            for name, label in NAMES.items()
        )
        parts.append(f"{stage} {figures}")
    return f"- {budget:.0%} of the MACs, SI-SDRi in dB: {'; '.join(parts)}."


def coverage_line() -> str:
    """How many architectures the graph prunes exactly, and torch-pruning alone at all."""
    records: list[Record] = json.loads((RESULTS / "graph.json").read_text())
    exact = [r for r in records if r["failure"] is None and r["error_float64"] < 1e-10]
    tried = [r for r in records if r["torch_pruning"]]
    alone = sum(bool(r["torch_pruning"]["works"]) for r in tried)
    worst = max(r["error_float64"] for r in exact)
    both = sum(r["failure"] is None for r in tried)
    return (
        f"- {len(exact)} of {len(records)} full-size variants of "
        f"{len({r['model'] for r in records})} architectures are pruned exactly (masked against "
        f"cut: at most {worst:.0e} relative, float64); of the {len(tried)} tried with "
        f"torch-pruning alone it prunes {alone}, with this graph {both}."
    )


def lines() -> list[str]:
    """The text between the markers."""
    records: list[Record] = json.loads((RESULTS / "fsdd.json").read_text())
    dense = next(r for r in records if r["stage"] == "dense")
    seeds = len({r["seed"] for r in records if r["stage"] == "pruned"})
    costs: list[Record] = json.loads((RESULTS / "search_cost.json").read_text())
    search = next(r for r in costs if r["experiment"] == "search_cost")
    graph = next(r for r in costs if r["experiment"] == "graph_cost")
    steps = next(r["recovery_steps"] for r in records if r["stage"] == "recovered")
    return [
        f"A Conv-TasNet ({dense['params'] / 1e3:.0f} k parameters) separates mixtures of real "
        f"speech (FSDD, speaker-dependent) with {dense['si_sdri']:.1f} dB SI-SDRi. Pruned on one "
        f"graph, mean of {seeds} seeds, {steps} steps of recovery each:",
        "",
        budget_line(records, 0.5),
        budget_line(records, 0.25),
        coverage_line(),
        f"- A search step costs {search['ratio']:.2f} × a forward and backward pass with frozen "
        f"weights (Conv-TasNet, {search['params'] / 1e6:.2f} M parameters); its channel graph "
        f"takes {graph['graph_seconds']:.1f} s.",
        "",
        f"{dense['machine']}; tables in `benchmarks/results/`.",
    ]


def main() -> int:
    """Write README.md, or with ``--check`` say whether it is up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n" + "\n".join(lines()) + f"\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        return int(new != text)
    temporary = readme.with_suffix(".tmp")
    temporary.write_text(new)
    os.replace(temporary, readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())
