"""The rows of the zoo, a library a file, and what could not be built."""

from __future__ import annotations

from benchmarks.zoo.models import (
    hugging_face,
    pytorch_image_models,
    separators,
    speech,
    torchvision_models,
    yolo,
)
from benchmarks.zoo.row import ZooRow

__all__ = ["ROWS", "row_named"]

ROWS: list[ZooRow] = [
    *pytorch_image_models.ROWS,
    *hugging_face.ROWS,
    *yolo.ROWS,
    *torchvision_models.ROWS,
    *separators.ROWS,
    *speech.ROWS,
]
"""All rows, in the order of the table."""


def row_named(name: str) -> ZooRow:
    """Return the row of this name.

    Raises:
        KeyError: If there is none.
    """
    rows = {row.name: row for row in ROWS}
    return rows[name]
