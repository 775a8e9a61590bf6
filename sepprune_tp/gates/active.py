"""Which gates are on, what draws them, and whether a model is still the one that was gated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import nn

from ..errors import InputError

if TYPE_CHECKING:
    from .gate_set import GateSet

__all__ = ["Draw", "NoHook", "begin", "check_same_modules", "end", "named_parts", "refuse_gated"]

_ON: WeakSet[GateSet] = WeakSet()


def begin(gates: GateSet) -> None:
    """Note that gates are on.

    Raises:
        InputError: If other gates are on in the same model.
    """
    refuse_gated(gates.model, "turn on these gates")
    _ON.add(gates)


def end(gates: GateSet) -> None:
    """Note that gates are off."""
    _ON.discard(gates)


def refuse_gated(model: nn.Module, what: str) -> None:
    """Refuse to work on a model whose forward pass is gated at the moment.

    Args:
        model: The model.
        what: What was to be done, for the message.

    Raises:
        InputError: If gates are on in the model, or in a part of it.
    """
    modules = set(model.modules())
    if any(modules & set(gates.model.modules()) for gates in _ON):
        raise InputError(
            f"cannot {what}: this {type(model).__name__} is running with gates. Leave the `with` "
            "block of the other gates first; a copy of the model (copy.deepcopy) is not gated."
        )


def named_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its dotted name; what torch.compile wraps stands for its wrapper."""
    named = model.named_modules(remove_duplicate=False)
    return {re.sub(r"(^|\.)_orig_mod(?=\.|$)", "", name): module for name, module in named}


def check_same_modules(
    model: nn.Module, known: Mapping[str, nn.Module], free: Iterable[str]
) -> None:
    """Refuse a model in which modules were replaced.

    Args:
        model: The model.
        known: Its modules by name when the gates were made.
        free: Names of modules that may be replaced, with what is in them: they did not run.

    Raises:
        InputError: With the name of the first module that is gone or another.
    """
    present, free = named_parts(model), [f"{name}." for name in free]
    for name, module in known.items():
        if present.get(name) is module or any(f"{name}.".startswith(one) for one in free):
            continue
        now = present.get(name)
        what = "is gone" if now is None else f"is another {type(now).__name__}"
        raise InputError(
            f"'{name}' {what} since these gates were made, and a gate acts on the layer that it "
            "was made for. Make a new GateSet of the model; to put other weights into a layer, "
            "load them into it (load_state_dict)."
        )


class Draw:
    """The hook that draws gates; in a copy of the model, which has no gates, it does nothing."""

    def __init__(self, draw: Callable[[], None] | None) -> None:
        self._do = draw

    def __call__(self, *_: Any) -> None:
        """Draw, if there is something to draw."""
        if self._do is not None:
            self._do()

    def __deepcopy__(self, memo: dict[int, Any]) -> Draw:
        return Draw(None)


class NoHook:
    """In place of a hook, while gates are given by hand."""

    def remove(self) -> None:
        """There is no hook to remove."""
