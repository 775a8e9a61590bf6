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
sys.path.insert(0, str(ROOT))

from benchmarks.harness.config import Experiment, find  # noqa: E402
from benchmarks.harness.dense import description_of  # noqa: E402
from benchmarks.kinds.grid import current  # noqa: E402
from benchmarks.pages.quality import lead, of_torch_pruning, values_by_seed  # noqa: E402
from benchmarks.zoo.table import summary  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BUDGETS = (0.5, 0.25)
STATES = {
    "pruned": "sepprune",
    "recovered": "sepprune",
    "reconstructed": "sepprune/lookahead",
    "repaired": "sepprune/lookahead",
}
"""Recovery, and our criterion. Looking ahead is for what is reconstructed."""
Record = dict[str, Any]


def budget_row(experiment: Experiment, runs: list[Record], budget: float) -> str:
    """One model and budget: ours and the best of torch-pruning's, after each recovery."""
    cells = []
    for recovery, label in STATES.items():
        found = lead(experiment, runs, label, budget=budget, recovery=recovery)
        cells.append(
            f"{found.level:.1f}, {short(found.best)} {found.other:.1f} ({len(found.gaps)})"
            if found
            else "not measured"
        )
    return f"| {runs[0]['model']} | {budget:.0%} | {' | '.join(cells)} |"


def short(criterion: str) -> str:
    """A torch-pruning criterion in the field's words."""
    name, _, mode = criterion.partition("/")
    name = name.removesuffix("Importance").removeprefix("Group")
    name = name.lower() if name in ("Magnitude", "Random") else name
    return f"{name} ({mode or 'global'})"


def gaps_to(runs: list[Record], criterion: str, recovery: str) -> list[float]:
    """By how many dB a criterion is behind ours, run by run."""
    gaps = []
    for model in dict.fromkeys(r["model"] for r in runs):
        for budget in BUDGETS:
            where = {"model": model, "budget": budget, "recovery": recovery}
            own = values_by_seed(runs, criterion="sepprune", **where)
            other = values_by_seed(runs, criterion=criterion, **where)
            gaps += [own[seed] - other[seed] for seed in own.keys() & other.keys()]
    return gaps


def side(gap: float) -> str:
    """A gap to ours, in words."""
    return f"{abs(gap):.1f} dB {'behind' if gap > 0 else 'ahead'}"


def udsp_line(runs: list[Record]) -> list[str]:
    """How near the published criterion comes that was nearest, on the same seeds."""
    found = {recovery: gaps_to(runs, "UDSP", recovery) for recovery in ("pruned", "recovered")}
    pruned, recovered = found.values()
    if not pruned or not recovered:
        return []
    return [
        "- UDSP, which is not torch-pruning's and learns channels as well, is "
        f"{side(statistics.mean(pruned))} on average as pruned (from {side(max(pruned))} to "
        f"{side(min(pruned))}; {len(pruned)} runs at these budgets) and "
        f"{side(statistics.mean(recovered))} once recovered."
    ]


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


def zoo_lines() -> list[str]:
    """Networks of other people in four lines; none before they are measured."""
    path = RESULTS / "zoo.json"
    if not path.is_file():
        return []
    first, *rest = summary(json.loads(path.read_text()))
    return [
        f"- Of networks that other people wrote ([zoo](benchmarks/results/zoo.md)): {first}",
        *(f"- {line}" for line in rest),
    ]


def lines() -> list[str]:
    """The text between the markers."""
    experiment = find("quality")
    runs = [r for r in current(experiment) if r["stage"] != "dense"]
    models = [[r for r in runs if r["model"] == name] for name in experiment.models]
    dense = [description_of(name, str(experiment.data["name"])) for name in experiment.models]
    costs: list[Record] = json.loads((RESULTS / "search_cost.json").read_text())
    search = next(r for r in costs if r["experiment"] == "search_cost")
    graph = next(r for r in costs if r["experiment"] == "graph_cost")
    tried = [c for c in experiment.criteria if of_torch_pruning(c.label)]
    whole = ", ".join(
        f"{name} ({one['params'] / 1e3:.0f} k parameters) {one['si_sdri']:.1f}"
        for name, one in zip(experiment.models, dense, strict=True)
    )
    shown = [*(run for run in runs if run["budget"] in BUDGETS), search, graph]
    machines = "; ".join(sorted({str(record["machine"]) for record in shown}))
    return [
        f"SI-SDRi in dB on mixtures of real speech (FSDD, speaker-dependent). Dense: {whole}. "
        f"Pruned on one graph; {experiment.recoveries['recovered'].steps} steps of training where "
        "recovered or repaired (repaired: reconstructed before, and the dense model as a teacher). "
        f"Ours first, then the best of torch-pruning's {len(tried)} criteria, chosen on the test "
        "mixtures themselves; in brackets the number of seeds.",
        "",
        f"| model | MACs | {' | '.join(STATES)} |",
        "|---|---:|" + "---|" * len(STATES),
        *(budget_row(experiment, found, budget) for found in models if found for budget in BUDGETS),
        "",
        *udsp_line(runs),
        coverage_line(),
        *zoo_lines(),
        f"- A search step costs {search['ratio']:.2f} × a forward and backward pass with frozen "
        f"weights (Conv-TasNet, {search['params'] / 1e6:.2f} M parameters); its channel graph "
        f"takes {graph['graph_seconds']:.1f} s.",
        "",
        f"{machines}. [All tables and plots](benchmarks/RESULTS.md), which targets are "
        "met and which are missed first; [what they do not show](benchmarks/LIMITS.md).",
    ]


def main() -> int:
    """Write README.md, or with ``--check`` say whether it is up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n" + "\n".join(lines()) + f"\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if new != text:
            print("README.md is not what its records say: run scripts/readme_results.py")
        return int(new != text)
    temporary = readme.with_suffix(".tmp")
    temporary.write_text(new)
    os.replace(temporary, readme)
    return 0


if __name__ == "__main__":
    sys.exit(main())
