"""What a measurement fails of: the stage, the error, and the line of whose code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Failures"]

LONGEST = 400


class Failures:
    """Failures of one row, in order; a stage that fails does not end the others."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what the block raises, and go on after it."""
        try:
            yield
        except Exception as error:  # whatever goes wrong is the result
            self.found.append({"stage": name, **_told(error)})

    def add(self, stage: str, kind: str, message: str) -> None:
        """Note a failure that no exception tells of."""
        self.found.append({"stage": stage, "type": kind, "message": message, "ours": ""})

    def __bool__(self) -> bool:
        return bool(self.found)


def _told(error: BaseException) -> dict[str, str]:
    told = {"type": type(error).__name__, "message": _short(error), "ours": _ours(error)}
    first = error
    while first.__cause__ or (first.__context__ and not first.__suppress_context__):
        first = first.__cause__ or first.__context__ or first
    told["where"] = _deepest(first)
    if first is not error:
        told["cause"] = f"{type(first).__name__}: {_short(first)}"
        told["ours"] = _ours(first) or told["ours"]
    return told


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST]


def _ours(error: BaseException) -> str:
    """The innermost line of the package that the error went through."""
    frames = [f for f in _frames(error) if "sepprune_tp/" in f.filename]
    return _place(frames[-1], "sepprune_tp/") if frames else ""


def _deepest(error: BaseException) -> str:
    frames = _frames(error)
    return _place(frames[-1], "site-packages/") if frames else ""


def _frames(error: BaseException) -> Any:
    return traceback.extract_tb(error.__traceback__)


def _place(frame: traceback.FrameSummary, after: str) -> str:
    file = frame.filename.rpartition(after)[2]
    return f"{file}:{frame.lineno} {frame.name}: {(frame.line or '').strip()[:100]}"
