"""How much plain data there is, before anything walks it."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

__all__ = ["DEEPEST", "is_bounded", "short"]

DEEPEST = 100
"""Levels of containers in containers; the files of trainings have about ten."""


def is_bounded(value: Any, most: int, deepest: int = DEEPEST) -> bool:
    """Whether plain data is of some extent only.

    Args:
        value: Containers, numbers, texts...
        most: Values in it, those named in several places counted at each. A list of a list of a
            list, each holding the next one twice, is small to keep and endless to print.
        deepest: Levels.
    """
    left = [(value, 0)]
    while left:
        one, depth = left.pop()
        inside = _inside(one)
        most -= 1 + len(inside)
        if most < 0 or depth > deepest:
            return False
        left += [(inner, depth + 1) for inner in inside]
    return True


def _inside(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set)):
        return list(value)
    held = vars(value) if isinstance(value, (Namespace, OrderedDict)) else {}
    return [*(value.values() if isinstance(value, Mapping) else ()), *held.values()]


def short(text: object, most: int = 200) -> str:
    """A text from a file as a message shows it: on one line, and not too long."""
    try:
        line = " ".join(str(text).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits; deep nesting
        line = f"({type(text).__name__})"
    return line if len(line) <= most else f"{line[:most]}..."
