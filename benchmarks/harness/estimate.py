"""How long missing cells will take, by what cells like them took."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .cells import Cell
from .records import Record

__all__ = ["expected_seconds"]

ALIKE = (
    ("model", "criterion", "recovery"),
    ("criterion", "recovery"),
    ("model", "recovery"),
    ("recovery",),
)
"""What two cells have in common, the most alike first."""


def expected_seconds(missing: Iterable[Cell], model: str, records: Sequence[Record]) -> float:
    """Seconds of one process; 0 if nothing like it was measured.

    Args:
        missing: Cells of one model.
        model: Its name.
        records: Of the same experiment, of any model.
    """
    took: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
    for record in records:
        for fields in ALIKE:
            if "seconds" in record:
                took[fields, *(record[field] for field in fields)].append(record["seconds"])
    whole = 0.0
    for cell in missing:
        own = {**cell.key, "model": model}
        alike = ((fields, *(own[field] for field in fields)) for fields in ALIKE)
        whole += next((statistics.mean(took[key]) for key in alike if key in took), 0.0)
    return whole
