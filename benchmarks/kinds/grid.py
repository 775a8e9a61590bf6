"""Models x seeds x criteria x budgets x recoveries: most experiments, told apart by their page."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.cells import KEY, Cell, cells_of, conditions
from benchmarks.harness.config import Experiment
from benchmarks.harness.estimate import expected_seconds
from benchmarks.harness.records import UNREACHABLE, Record, Records, origin
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
        return [*lines, "", *_out_of_reach(experiment), origin(records), ""]

    return Kind(_run, _status, section)


def current(experiment: Experiment) -> list[Record]:
    """What was measured of an experiment as it is configured now, its dense weights the newest."""
    return [r for r in _asked(experiment) if r["stage"] != UNREACHABLE]


def _asked(experiment: Experiment) -> list[Record]:
    """The records of cells that the configuration still has, of the dense weights of the newest."""
    asked = {tuple(c.key.values()): conditions(experiment, c) for c in cells_of(experiment)}
    records = [
        record
        for record in Records(records_of(experiment)).items
        if asked.get(tuple(record[k] for k in KEY)) == record["config"]
    ]
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


def _out_of_reach(experiment: Experiment) -> list[str]:
    """A sentence of what criteria could not do, those of the same reason together."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for record in _asked(experiment):
        if record["stage"] == UNREACHABLE:
            why = record["model"], record["reason"].partition(". ")[0]
            told.setdefault(why, {})[record["criterion"]] = None
    each = [f"{', '.join(found)} of {model}, {reason}" for (model, reason), found in told.items()]
    return [f"Out of reach: {'; '.join(each)}.", ""] if each else []


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    def wanted(cell: Cell) -> bool:
        if cell.stage == "dense":
            return True
        return all(wants(only, field, value) for field, value in cell.key.items())

    for bench in benches(experiment, only.get("model") or (), devices=only.get("devices") or 1):
        missing = run_cells(bench, say, wanted)
        if missing:
            say(f"{bench.dense.name}: {missing} cells are being measured by another process")


def _status(experiment: Experiment) -> str:
    done, whole, seconds = 0, 0, 0.0
    for bench in benches(experiment):
        cells = list(bench.cells())
        missing = [cell for cell in cells if bench.found(cell) is None]
        whole += len(cells)
        done += len(cells) - len(missing)
        seconds += expected_seconds(missing, bench.dense.name, bench.records.items)
    left = f", about {seconds / 60:,.0f} minutes to go in one process" if seconds else ""
    return f"{done} of {whole} cells{left}"
