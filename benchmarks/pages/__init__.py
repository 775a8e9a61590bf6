"""The page of results, ``benchmarks/RESULTS.md``, from the records alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PAGE", "write"]

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "RESULTS.md"
ORDER = (
    "targets",
    "dense",
    "quality",
    "quality-small",
    "curves",
    "ablations",
    "ablations-models",
    "recovery-ways",
    "stability",
    "search",
    "search-models",
    "speed",
    "search-cost",
    "deploy",
    "audible",
    "graph",
    "torchvision",
    "host-tests",
)
"""Sections in this order, then what else there is, the paper's own sizes last."""


def write(page: Path = PAGE) -> Path:
    """Write the page and its plots again; the same records give the same bytes."""
    from benchmarks.harness.config import find, names
    from benchmarks.harness.records import write_atomically
    from benchmarks.kinds import KINDS

    lines = [
        "# Results",
        "",
        "Written by `make results` (`python -m benchmarks results`) from the records in "
        "[`results/`](results); `python -m benchmarks run NAME` measures what is missing of an "
        "experiment in [`experiments/`](experiments). What these figures do not show is in "
        "[`LIMITS.md`](LIMITS.md).",
        "",
    ]
    there = names()
    known = [name for name in ORDER if name in there]
    for name in [*known, *(name for name in there if name not in known)]:
        experiment = find(name)
        body = KINDS[experiment.kind].section(experiment)
        if name.startswith("paper/"):
            continue
        lines += [f"## {experiment.title}", "", *experiment.text.strip().splitlines(), ""]
        lines += [*body, ""] if body else ["Not measured.", ""]
    papers = [name for name in there if name.startswith("paper/")]
    if papers:
        lines += _papers(papers)
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    write_atomically(page, text.rstrip("\n") + "\n")
    return page


def _papers(papers: list[str]) -> list[str]:
    """One table of all cells of the paper's main table."""
    from benchmarks.harness.config import find
    from benchmarks.kinds import KINDS

    lines: list[str] = []
    for name in papers:
        experiment = find(name)
        rows = KINDS[experiment.kind].section(experiment)
        lines += rows if not lines else rows[2:]
    return [
        "## The paper at its own size",
        "",
        "Published figures (arXiv 2505.12079) and what was measured here; SDRi and SI-SDRi in dB, "
        "MACs of one second at 16 kHz. The configurations are in `experiments/paper/`; they need "
        "the data and a GPU machine: `python -m benchmarks run paper/NAME --devices N`.",
        "",
        *lines,
        "",
    ]
