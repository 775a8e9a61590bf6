"""Write the lines of results in README.md from the records under benchmarks/results.

Usage: python scripts/readme_results.py [--check]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from _fsdd_ahead import TARGETS, by_gates, lead  # noqa: E402
from _fsdd_table import of_model  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

STATES = (
    ("pruned", "sepprune", "pruned", "none"),
    ("recovered", "sepprune", "recovered", "none"),
    ("reconstructed", "sepprune/lookahead", "pruned", "least squares"),
    ("repaired", "sepprune/lookahead", "recovered", "least squares"),
)
"""Title, our criterion, stage, repair. Looking ahead is for what is reconstructed."""
Record = dict[str, Any]


def budget_row(records: list[Record], budget: float) -> str:
    """One model and budget: ours and the best of torch-pruning's, before and after recovery."""
    cells = []
    for _, criterion, stage, repair in STATES:
        found = lead(records, criterion, budget, (stage, repair), (stage, repair))
        cells.append(
            f"{found.ours:.1f}, {short(found.baseline)} {found.theirs:.1f} ({found.seeds})"
            if found
            else "not measured"
        )
    return f"| {records[0]['model']} | {budget:.0%} | {' | '.join(cells)} |"


def short(criterion: str) -> str:
    """A torch-pruning criterion in the field's words."""
    name, _, mode = criterion.partition("/")
    name = name.removesuffix("Importance").removeprefix("Group")
    name = name.lower() if name in ("Magnitude", "Random") else name
    return f"{name} ({mode or 'global'})"


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
    found = [
        r for path in sorted(RESULTS.glob("fsdd_*.json")) for r in json.loads(path.read_text())
    ]
    models = [of_model(found, name) for name in dict.fromkeys(r["model"] for r in found)]
    runs = [r for records in models for r in records if r["stage"] != "dense"]
    dense = [next(r for r in records if r["stage"] == "dense") for records in models]
    costs: list[Record] = json.loads((RESULTS / "search_cost.json").read_text())
    search = next(r for r in costs if r["experiment"] == "search_cost")
    graph = next(r for r in costs if r["experiment"] == "graph_cost")
    steps = max(r["recovery_steps"] for r in runs if r["stage"] == "recovered")
    tried = {r["criterion"] for r in runs if not by_gates(r["criterion"])}
    trained = {r["criterion"] for r in runs if r["stage"] == "recovered"} & tried
    whole = ", ".join(
        f"{r['model']} ({r['params'] / 1e3:.0f} k parameters) {r['si_sdri']:.1f}" for r in dense
    )
    return [
        f"SI-SDRi in dB on mixtures of real speech (FSDD, speaker-dependent). Dense: {whole}. "
        f"Pruned on one graph; {steps} steps of training where recovered or repaired (repaired: "
        "reconstructed before, and the dense model as a teacher). Ours first, then the best of "
        f"torch-pruning's criteria ({len(tried)} pruned, {len(trained)} of them trained), chosen "
        "on the test mixtures themselves; in brackets the number of seeds.",
        "",
        f"| model | MACs | {' | '.join(state[0] for state in STATES)} |",
        "|---|---:|" + "---|" * len(STATES),
        *(budget_row(records, budget) for records in models for budget in TARGETS),
        "",
        coverage_line(),
        f"- A search step costs {search['ratio']:.2f} × a forward and backward pass with frozen "
        f"weights (Conv-TasNet, {search['params'] / 1e6:.2f} M parameters); its channel graph "
        f"takes {graph['graph_seconds']:.1f} s.",
        "",
        f"{dense[0]['machine']}. Tables in `benchmarks/results/`; `fsdd.md` and `speed.md` say "
        "which targets are met and which are missed.",
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
