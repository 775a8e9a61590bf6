"""Models x seeds x criteria x budgets x recoveries: most experiments, told apart by their page."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.bench import Cell
from benchmarks.harness.config import Experiment
from benchmarks.harness.records import Record, Records, origin
from benchmarks.harness.running import benches, records_of, run_cells
from benchmarks.pages import ablation, curves, published, quality, recovery

from .base import Kind, Only, wants

__all__ = ["current", "kind"]

Page = Callable[[Experiment, list[Record]], list[str]]
PAGES: dict[str, Page] = {
    "quality": quality.section,
    "curves": curves.section,
    "ablation": ablation.section,
    "recovery": recovery.section,
    "published": published.section,
}


def kind(page: str) -> Kind:
    """A grid whose section is written by one of ``benchmarks.pages``."""

    def section(experiment: Experiment) -> list[str]:
        records = current(experiment)
        lines = PAGES[page](experiment, records)
        if not lines or page == "published":  # whose one table has a column for the machine
            return lines
        return [*lines, "", origin(records), ""]

    return Kind(_run, _status, section)


def current(experiment: Experiment) -> list[Record]:
    """The records of an experiment, of the dense weights that were measured last."""
    records = Records(records_of(experiment)).items
    newest: dict[tuple[str, str], Record] = {}
    for record in records:
        where = (record["model"], record["data"])
        if record["stage"] == "dense" and record["date"] > newest.get(where, {"date": ""})["date"]:
            newest[where] = record
    return [
        record
        for record in records
        if record["weights_sha256"]
        == newest.get((record["model"], record["data"]), record)["weights_sha256"]
    ]


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    def wanted(cell: Cell) -> bool:
        if cell.stage == "dense":
            return True
        asked = {
            "seed": cell.seed,
            "criterion": cell.choice.label,
            "recovery": cell.recovery.name,
            "budget": cell.budget,
        }
        return all(wants(only, key, value) for key, value in asked.items())

    for bench in benches(experiment, only.get("model") or (), devices=only.get("devices") or 1):
        missing = run_cells(bench, say, wanted)
        if missing:
            say(f"{bench.dense.name}: {missing} cells are being measured by another process")


def _status(experiment: Experiment) -> str:
    done = whole = 0
    for bench in benches(experiment):
        for cell in bench.cells():
            whole += 1
            done += bench.found(cell) is not None
    return f"{done} of {whole} cells"
