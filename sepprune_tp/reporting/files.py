"""Writing the files of a report: each whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["write_figure", "write_json", "write_text"]


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file whole or not at all."""
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def write_figure(path: str | os.PathLike[str], figure: Any) -> Path:
    """Write a matplotlib figure as PNG, whole or not at all."""
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(scratch, format="png", dpi=130)
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write plain data as indented JSON, whole or not at all."""
    return write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
