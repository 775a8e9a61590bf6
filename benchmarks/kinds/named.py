"""Cells of another experiment that a configuration names, for kinds that look at trained models."""

from __future__ import annotations

from benchmarks.harness.bench import Bench
from benchmarks.harness.cells import NO_CHOICE, Cell
from benchmarks.harness.config import Experiment, Recovery
from benchmarks.harness.records import Record

__all__ = ["key_of", "named_cells"]


def named_cells(experiment: Experiment, source: Experiment) -> list[Cell]:
    """The dense model, then the cells of ``source`` that ``options.cells`` lists.

    Args:
        experiment: Its ``options.cells`` holds (label of the criterion, budget, recovery).
        source: Where these are defined; its first seed is taken.
    """
    first = source.seeds[0]
    choices = {choice.label: choice for choice in source.criteria}
    return [Cell(NO_CHOICE, 1.0, first, Recovery("pruned"))] + [
        Cell(choices[label], float(budget), first, source.recoveries[way])
        for label, budget, way in experiment.options["cells"]
    ]


def key_of(experiment: Experiment, bench: Bench, cell: Cell) -> Record:
    """The fields that tell what a record is of."""
    return {
        "experiment": experiment.name,
        "model": bench.dense.name,
        "data": bench.corpus.name,
        **cell.key,
        "stage": cell.stage,
    }
