"""Widths in steps: given, or those that the machine at hand likes."""

from __future__ import annotations

from typing import Literal

from ..errors import InputError
from ..gates import GateSet
from .ranking import Steps

__all__ = ["RoundTo", "steps_for"]

RoundTo = Steps | Literal["auto"]


def steps_for(gates: GateSet, round_to: RoundTo) -> Steps:
    """The steps of widths that ``round_to`` stands for.

    Args:
        gates: The gates.
        round_to: A step for all groups, steps by group name, or ``"auto"``: measured, by group.

    Raises:
        InputError: If it is another word.
    """
    if not isinstance(round_to, str):
        return round_to
    if round_to != "auto":
        raise InputError(f"round_to={round_to!r}: give a number, steps by group name, or 'auto'")
    return gates.resource("latency").steps(gates.groups)
