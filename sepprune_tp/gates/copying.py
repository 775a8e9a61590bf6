"""Gates that are copied or pickled with their model: made anew on the copy, with what they know."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InputError
from ..graph import Scope

if TYPE_CHECKING:
    from .gate_set import GateSet

__all__ = ["made_again", "restore", "state_of"]


def made_again(
    cls: type[GateSet], model: nn.Module, example: Any, scope: Scope, kind: Any, options: Any
) -> GateSet:
    """Gates of a copy of a model, all open; what was warned of before is not repeated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(model, example, scope, kind, **options)


def state_of(gates: GateSet) -> dict[str, Any]:
    """What changes in gates after they are made, as plain data and tensors."""
    ahead = gates.lookahead
    return {
        "groups": _groups(gates),
        "scores": gates.scores.detach().clone(),
        "keep": gates.keep,
        "learned": gates.learned,
        "ties": gates.ties,
        "generator": gates.generator.get_state(),
        "lookahead": None if ahead is None else (ahead.ridge, ahead.state()),
    }


def restore(gates: GateSet, state: dict[str, Any]) -> None:
    """Put back what :func:`state_of` gave.

    Raises:
        InputError: If it is of other groups.
    """
    if state["groups"] != _groups(gates):
        raise InputError(
            f"the gates of this {type(gates.model).__name__} were copied or pickled with other "
            "groups: its code, this package or torch has changed since. Make a new GateSet."
        )
    gates.scores, gates.table.keep = state["scores"].to(gates.scores.device), state["keep"]
    gates.learned, gates.ties = state["learned"], state["ties"]
    gates.generator.set_state(state["generator"])
    if state["lookahead"] is not None:
        ridge, seen = state["lookahead"]
        gates.lookahead = gates.look_ahead(ridge)
        gates.lookahead.restore(seen)


def _groups(gates: GateSet) -> list[tuple[str, int]]:
    return [(group.name, group.size) for group in gates.groups]
