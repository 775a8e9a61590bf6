"""The state of a search, and how it is written so that a killed search goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepprune_tp.files import make_folder, write_tensors
from sepprune_tp.files.extent import short
from sepprune_tp.files.states import check_like, load_adam, same
from sepprune_tp.files.torch_archives import read_plain

from ..errors import CheckpointError
from ..gates import GateSet, Lookahead

__all__ = ["SearchState", "agreeing", "content_of", "load", "restore", "save"]

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


def content_of(gates: GateSet, state: SearchState, settings: dict[str, Any]) -> dict[str, Any]:
    """A search as plain data, for :func:`restore`.

    Args:
        gates: The gates, for their scores and generator.
        state: The rest.
        settings: What the search was started with; a resumed one must agree.
    """
    return {
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


def save(path: Path, gates: GateSet, state: SearchState, settings: dict[str, Any]) -> None:
    """Write :func:`content_of` a search to a file, whole or not at all."""
    content = content_of(gates, state, settings)
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
        content = read_plain(path)
    except CheckpointError as error:
        raise CheckpointError(_not_a_search(path, error)) from error
    return agreeing(content, settings, path)


def agreeing(content: Any, settings: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """What was written of a search, if it is this one.

    Args:
        content: As :func:`content_of` gives it.
        settings: Of this search.
        where: It comes from, for errors.

    Raises:
        CheckpointError: If it is not of a search, or of another search.
    """
    try:
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
        found, version = content["settings"], content["format"]
        if not isinstance(found, dict):
            raise TypeError("its settings are none")
    except (KeyError, TypeError) as error:
        raise CheckpointError(_not_a_search(where, error)) from error
    if not same(version, _FORMAT):
        raise CheckpointError(
            f"{where} was written by another version of sepprune-tp (format {short(version)}, not "
            f"{_FORMAT}). {_ANEW}"
        )
    if differ := [key for key in settings if not _agree(settings[key], found.get(key))]:
        raise CheckpointError(
            f"{where} belongs to another search: it was started with "
            f"{short({key: found.get(key) for key in differ}, 600)}, this one with "
            f"{ {key: settings[key] for key in differ} }. {_ANEW}"
        )
    return content


def _not_a_search(where: str | Path, error: Exception) -> str:
    told = f"{type(error).__name__}: {error}"
    return f"{where} is not the checkpoint of a search ({told}). Delete it or give another path."


def _agree(one: Any, other: Any) -> bool:
    """Whether two settings may be of one search; None: nothing is known."""
    return one is None or other is None or same(one, other)


def restore(content: dict[str, Any], gates: GateSet, state: SearchState) -> None:
    """Put gates and state where a file says.

    Raises:
        CheckpointError: If the file holds something else than a search of these gates.
    """
    try:
        _check(content, gates, state)
        with torch.no_grad():
            gates.scores.copy_(content["scores"])
        load_adam(state.optimizer, content["optimizer"])
        state.step, state.history = content["step"], content["history"]
        state.multipliers, state.taylor = content["multipliers"], content["taylor"]
        state.last, state.settled = content["last"], content["settled"]
        if state.ahead is not None:
            state.ahead.restore(content["ahead"])
        gates.generator.set_state(content["generator"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"The checkpoint of the search does not hold what a search needs ({short(error)}): it "
            "was damaged. Delete it or give another path."
        ) from error


def _check(content: dict[str, Any], gates: GateSet, state: SearchState) -> None:
    """Refuse figures of another form than those of this search."""
    own = {
        "scores": gates.scores,
        "multipliers": state.multipliers,
        "taylor": state.taylor,
        "last": state.last,
    }
    for name, tensor in own.items():
        check_like(name, content[name], tensor)
    step, history = content["step"], content["history"]
    records = isinstance(history, list) and all(map(_is_record, history))
    if not records or type(step) is not int or step != len(history):
        raise ValueError("its history is not that of its steps")
    if (settled := content["settled"]) is not None:
        check_like("keep", settled["keep"], gates.keep)
        if not isinstance(settled["round_to"], (int, str)):
            raise ValueError("it does not say how its masks were rounded")
        if not all(isinstance(entry, dict) for entry in settled["spent"].values()):
            raise ValueError("it does not say what its masks spend")


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(
        isinstance(key, str) and isinstance(value, (int, float)) for key, value in record.items()
    )
