"""What an experiment is made of: one cell for each figure to measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .config import Choice, Experiment, Recovery
from .records import Record

__all__ = ["KEY", "NO_CHOICE", "Cell", "cells_of", "conditions"]

KEY = ("criterion", "budget", "seed", "recovery")
"""The fields of a record that tell it from others of its model."""

NO_CHOICE = Choice("none", "none")


@dataclass(frozen=True)
class Cell:
    """One figure to measure.

    Attributes:
        choice: The criterion; ``NO_CHOICE`` of the dense model.
        budget: Share of the MACs to keep.
        seed: Of everything random.
        recovery: What is done before scoring.
    """

    choice: Choice
    budget: float
    seed: int
    recovery: Recovery

    @property
    def stage(self) -> str:
        """``dense``, ``pruned`` (nothing trained) or ``recovered``."""
        if self.choice.name == "none":
            return "dense"
        return "recovered" if self.recovery.steps else "pruned"

    @property
    def key(self) -> Record:
        """``KEY`` and what its record has there."""
        values = (self.choice.label, self.budget, self.seed, self.recovery.name)
        return dict(zip(KEY, values, strict=True))


def cells_of(experiment: Experiment) -> Iterator[Cell]:
    """The cells of each of its models, in an order in which a choice is used by the next ones."""
    yield Cell(NO_CHOICE, 1.0, experiment.seeds[0], Recovery("pruned"))
    for seed in experiment.seeds:
        for choice in experiment.criteria:
            if seed not in (choice.seeds or experiment.seeds):
                continue
            names = choice.recoveries or tuple(experiment.recoveries)
            ways = [experiment.recoveries[name] for name in names]
            for budget in choice.budgets or experiment.budgets:
                for way in ways:
                    if seed in (way.seeds or experiment.seeds):
                        yield Cell(choice, budget, seed, way)


def conditions(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """What the experiment says of a cell, beside its key."""
    choice = {"name": cell.choice.name, "options": dict(cell.choice.options)}
    return {
        "criterion": {**choice, "scope": cell.choice.scope},
        "recovery": {k: v for k, v in asdict(cell.recovery).items() if k not in ("name", "seeds")},
        "test": dict(experiment.test),
    }
