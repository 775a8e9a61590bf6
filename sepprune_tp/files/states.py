"""States of trainings that come from files: whether they are of the training that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_like", "load_adam", "load_plateau", "same"]


def same(one: Any, other: Any) -> bool:
    """Whether plain data is equal; False where it cannot be compared, such as with a tensor."""
    try:
        return bool(one == other)
    except (RuntimeError, RecursionError):
        return False


def check_like(name: str, given: Any, own: Tensor) -> None:
    """Refuse what is no tensor of the shape and kind of another.

    Raises:
        ValueError: If so.
    """
    if not isinstance(given, Tensor) or given.shape != own.shape or given.dtype != own.dtype:
        told = f"{tuple(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else "none"
        raise ValueError(f"'{name}' is a tensor of {told}; here {tuple(own.shape)}, {own.dtype}")


def load_adam(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Put Adam where a file says, if that is where it can be.

    Args:
        optimizer: Adam, with the parameters and options of the run that wrote the state.
        state: What its ``state_dict()`` gave then.

    Raises:
        ValueError: If the state is of other parameters or options.
    """
    fresh = optimizer.state_dict()
    if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
        raise ValueError("there is no state of an optimiser")
    groups, own = state["param_groups"], fresh["param_groups"]
    alike = isinstance(groups, list) and len(groups) == len(own)
    if not alike or not all(map(_same_options, groups, own)):
        raise ValueError("the state is of another optimiser")
    held = state["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in own for number in group["params"]]
    for number, values in held.items() if isinstance(held, Mapping) else [(None, None)]:
        if number not in numbers or not isinstance(values, Mapping):
            raise ValueError("the state is of other parameters")
        own_shape = parameters[numbers.index(number)].shape
        shapes = {"step": torch.Size(), "exp_avg": own_shape, "exp_avg_sq": own_shape}
        if values.keys() != shapes.keys() or not all(
            isinstance(values[name], Tensor)
            and values[name].is_floating_point()
            and values[name].shape == shape
            for name, shape in shapes.items()
        ):
            raise ValueError("the state of a parameter is none of Adam's")
    optimizer.load_state_dict(dict(state))


def _same_options(given: Any, own: Mapping[str, Any]) -> bool:
    """Whether a group has the options and parameters of another; rates may have changed."""
    if not isinstance(given, Mapping) or set(given) != set(own):
        return False
    rate = given["lr"]
    rated = isinstance(rate, float) and 0 <= rate < float("inf")
    return rated and all(same(given[key], own[key]) for key in own if key != "lr")


def load_plateau(
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau, state: Mapping[str, Any]
) -> None:
    """Put a plateau rule where a file says: its counts and figures, and nothing that it is not.

    Raises:
        ValueError: If the state is not one of such a rule.
    """
    fresh = scheduler.state_dict()
    if state.keys() != fresh.keys() or not all(
        _same_kind(state[key], value) for key, value in fresh.items()
    ):
        raise ValueError("the state is of another plateau rule")
    scheduler.load_state_dict(dict(state))


def _same_kind(given: Any, own: Any) -> bool:
    """Whether a value could have become of another: numbers change, and may begin as None."""
    if isinstance(own, list):
        return isinstance(given, list) and all(map(_is_number, given))
    if own is None or _is_number(own):
        return given is None or _is_number(given)
    return same(given, own)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
