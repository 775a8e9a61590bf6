"""Writing the files of a report: each whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sepprune_tp.files import write_text, written

__all__ = ["write_figure", "write_json", "write_text"]


def write_figure(path: str | os.PathLike[str], figure: Any) -> Path:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with written(path) as scratch:
        figure.savefig(scratch, format="png", dpi=130)
    return Path(path)


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write plain data as indented JSON, whole or not at all."""
    return write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
