"""Markdown tables, and figures as they are printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence

__all__ = ["spread", "table", "times"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[int]) -> list[str]:
    """Lines of a table; columns whose number is in ``text`` are left-aligned."""
    rule = ["---" if number in text else "---:" for number in range(len(heads))]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]


def spread(values: Sequence[float], expected: int | None = None, digits: int = 2) -> str:
    """Mean ± standard deviation of several, the value of one, nothing of none.

    Args:
        values: One of each seed.
        expected: How many there should be; another number is shown in brackets.
        digits: After the point.
    """
    if not values:
        return ""
    count = "" if expected is None or len(values) == expected else f" ({len(values)})"
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return f"{mean}{count}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}{count}"


def times(factor: float, endless: str) -> str:
    """A factor, or what to say of one that is infinite."""
    return endless if factor == math.inf else f"{factor:.0f} ×"
