"""Figures of a budget as people write them: 0.5, "50%", "1.2G", "15ms", "12MB"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from ..errors import BudgetError

__all__ = ["UNITS", "Quantity", "parse"]

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS: Mapping[str, Mapping[str, float]] = {
    "macs": _COUNTS,
    "params": _COUNTS,
    "latency": {"": 1.0, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "memory": {
        "": 1.0,
        "B": 1.0,
        **{f"{k}B": 1e3 for k in "kK"},
        **{"MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "kiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    },
}
"""Units of each resource in its base unit: a count, milliseconds, bytes."""

_EXAMPLES = {
    "macs": "a number of macs above 1, such as '1.2G'",
    "params": "a number of params above 1, such as '800k'",
    "latency": "milliseconds above 1, or a time such as '15ms', '800us' or '0.015s'",
    "memory": "bytes above 1, or a size such as '12MB', '12MiB' or '1.5GB'",
}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([^\W\d]*|%)\s*")


@dataclass(frozen=True)
class Quantity:
    """An upper bound as it was written.

    Attributes:
        amount: A share of the dense model in (0, 1], or a number of base units.
        is_share: Which of the two.
        unit: As written: ``%``, ``G``, ``ms``, or nothing.
        scale: Base units (or shares) in one ``unit``.
        text: As a Python literal.
    """

    amount: float
    is_share: bool
    unit: str
    scale: float
    text: str

    def bound(self, dense: float) -> float:
        """The bound in base units, for a dense model that costs ``dense`` of them."""
        return self.amount * dense if self.is_share else self.amount

    def like(self, cost: float, dense: float) -> str:
        """A cost in the form in which this bound was written, rounded up: it can be asked for.

        Args:
            cost: In base units.
            dense: Cost of the dense model.

        Returns:
            A Python literal.
        """
        if not self.is_share and not self.unit:
            return str(max(2, math.ceil(cost)))  # a plain 1 is a share
        value = (cost / dense if self.is_share else cost) / self.scale
        number = _rounded_up(value, 1.0 / self.scale if self.is_share else math.inf)
        return repr(f"{number}{self.unit}") if self.unit else number


def parse(resource: str, value: object) -> Quantity:
    """Read a bound.

    Args:
        resource: ``macs``, ``params``, ``latency`` or ``memory``.
        value: A share in (0, 1], a number above 1 (of MACs, parameters, milliseconds, bytes), or a
            string: either of them, a percentage, or a number with a unit.

    Returns:
        The bound.

    Raises:
        BudgetError: If it is none of these.
    """
    units = UNITS[resource]
    if isinstance(value, bool):
        raise _refusal(resource, value)
    if isinstance(value, (int, float)):
        if not (math.isfinite(value) and value > 0):
            raise _refusal(resource, value)
        return Quantity(float(value), value <= 1, "", 1.0, repr(value))
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _refusal(resource, value)
    number, unit = float(match[1]), match[2]
    if not (math.isfinite(number) and number > 0):
        raise _refusal(resource, value)
    if unit == "%":
        if number > 100:
            raise _refusal(resource, value, "a share cannot be above 100%")
        return Quantity(number / 100, True, unit, 0.01, repr(value))
    if unit not in units:
        known = ", ".join(u for u in units if u)
        raise _refusal(resource, value, f"the units of {resource} are %, {known}")
    if not unit:
        return Quantity(number, number <= 1, "", 1.0, repr(value))
    return Quantity(number * units[unit], False, unit, units[unit], repr(value))


def _refusal(resource: str, value: object, more: str = "") -> BudgetError:
    text = (
        f"{resource}={value!r}: give a share of the dense model in (0, 1] or as '50%', or "
        f"{_EXAMPLES[resource]}"
    )
    return BudgetError(f"{text}; {more}" if more else text)


def _rounded_up(value: float, limit: float) -> str:
    """At least ``value``, with four significant digits, at most ``limit`` (if value is)."""
    step = Decimal(10) ** (math.floor(math.log10(value)) - 3)
    count = math.floor(value / float(step))
    while float(count * step) < value:
        count += 1
    number = min(float(count * step), limit) if value <= limit else float(count * step)
    return f"{Decimal(repr(number)).normalize():f}"
