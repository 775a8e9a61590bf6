"""Whether what a file holds is the state of a recovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sepprune_tp.files.states import check_like

__all__ = ["check_run"]

_KINDS = {"step": int, "stale": int, "seconds": float, "stopped": str, "history": list}
_FIGURES = {"step", "seconds", "lr", "val_loss", "si_sdr"}


def check_run(state: Any, model: nn.Module) -> None:
    """Refuse what no recovery of a model wrote.

    Args:
        state: A ``RunState`` out of a file.
        model: The model.

    Raises:
        ValueError: If so.
    """
    own = model.state_dict()
    for weights in (state.weights, state.best):
        if not isinstance(weights, Mapping) or weights.keys() != own.keys():
            raise ValueError("its weights are not those of the model")
        for name, value in own.items():
            if isinstance(value, Tensor):
                check_like(name, weights[name], value)
    for name, kind in _KINDS.items():
        if type(getattr(state, name)) is not kind:
            raise ValueError(f"its {name} is no {kind.__name__}")
    if min(state.step, state.stale, state.seconds) < 0 or not all(map(_is_record, state.history)):
        raise ValueError("its history is not one of validations")
    if not isinstance(state.losses, list) or not all(isinstance(x, float) for x in state.losses):
        raise ValueError("its losses are no numbers")
    if not all(isinstance(part, dict) for part in (state.optimizer, state.plateau)):
        raise ValueError("its optimiser has no state")


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.keys() >= _FIGURES
        and all(isinstance(value, (int, float)) for value in record.values())
    )
