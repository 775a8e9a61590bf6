"""The state of a search, and how it is written so that a killed search goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import make_folder, write_tensors
from ..gates import GateSet, Lookahead

__all__ = ["SearchState", "load", "restore", "save"]

_FORMAT = 4
_ANEW = "Start anew with --restart, delete it, or give another path."


@dataclass
class SearchState:
    """Everything that a step changes, beside the scores and the generator of the gates.

    Attributes:
        step: Steps done.
        optimizer: Of the scores.
        multipliers: Of the limits, in their order, shape (R,), at least 0.
        taylor: Sum of |dL / dgate| over the warm-up, shape (N,).
        last: Gates of the last step, shape (N,).
        history: One dict a step.
        ahead: What stands in for closed channels after the warm-up, if the search looks ahead.
        settled: The final masks and how they were rounded, once they are there.
    """

    step: int
    optimizer: torch.optim.Optimizer
    multipliers: Tensor
    taylor: Tensor
    last: Tensor
    history: list[dict[str, float]]
    ahead: Lookahead | None = None
    settled: dict[str, Any] | None = None


def save(path: Path, gates: GateSet, state: SearchState, settings: dict[str, Any]) -> None:
    """Write a search to a file, whole or not at all.

    Args:
        path: The file.
        gates: The gates, for their scores and generator.
        state: The rest.
        settings: What the search was started with; a resumed one must agree.
    """
    content = {
        "format": _FORMAT,
        "settings": settings,
        "step": state.step,
        "scores": gates.scores.detach().cpu(),
        "optimizer": state.optimizer.state_dict(),
        "multipliers": state.multipliers,
        "taylor": state.taylor,
        "last": state.last,
        "history": state.history,
        "ahead": None if state.ahead is None else state.ahead.state(),
        "generator": gates.generator.get_state(),
        "settled": state.settled,
    }
    make_folder(path.parent)
    write_tensors(path, content)


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the file of a search; None if there is none.

    Returns:
        For :func:`restore`, all tensors on the CPU.

    Raises:
        CheckpointError: If the file is not of a search, or of another search.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = content["settings"]
    except Exception as error:
        raise CheckpointError(
            f"{path} is not the checkpoint of a search ({type(error).__name__}: {error}). Delete "
            "it or give another path."
        ) from error
    if content["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of sepprune-tp (format {content['format']}, "
            f"not {_FORMAT}). {_ANEW}"
        )
    if differ := [key for key in settings if not _agree(settings[key], found.get(key))]:
        raise CheckpointError(
            f"{path} belongs to another search: it was started with "
            f"{ {key: found.get(key) for key in differ} }, this one with "
            f"{ {key: settings[key] for key in differ} }. {_ANEW}"
        )
    return content


def _agree(one: Any, other: Any) -> bool:
    """Whether two settings may be of one search; None: nothing is known."""
    return one == other or one is None or other is None


def restore(content: dict[str, Any], gates: GateSet, state: SearchState) -> None:
    """Put gates and state where a file says."""
    with torch.no_grad():
        gates.scores.copy_(content["scores"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.history = content["step"], content["history"]
    state.multipliers, state.taylor = content["multipliers"], content["taylor"]
    state.last, state.settled = content["last"], content["settled"]
    if state.ahead is not None:
        state.ahead.restore(content["ahead"])
    gates.generator.set_state(content["generator"])
