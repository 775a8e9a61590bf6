"""Hard masks as users give them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .table import GateGroup

__all__ = ["checked_keep", "checked_masks"]


def checked_masks(masks: object, groups: Sequence[GateGroup]) -> dict[GateGroup, Tensor]:
    """Masks by group.

    Args:
        masks: By group name: bool, shape (size,), True keeps; a tensor, an array or a list.
        groups: The gated groups.

    Returns:
        The masks that were given, bool, on the CPU.

    Raises:
        InputError: If a name, shape or type is wrong, or a group would lose all channels.
    """
    if not isinstance(masks, Mapping):
        raise InputError(
            f"masks are a {type(masks).__name__}; give a dict of bool masks by group name, "
            f"such as {{{groups[0].name!r}: torch.ones({groups[0].size}, dtype=torch.bool)}}"
        )
    known = {group.name: group for group in groups}
    for name in masks:
        if name not in known:
            raise InputError(
                f"no gated group is called {name!r}; the groups are {', '.join(known)}"
            )
    return {known[name]: _checked(known[name], mask) for name, mask in masks.items()}


def checked_keep(keep: Any, count: int) -> Tensor:
    """Masks of all gates at once, bool, shape (N,).

    Raises:
        InputError: If they are something else.
    """
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.shape != (count,):
        found = f"{keep.dtype}, {tuple(keep.shape)}" if isinstance(keep, Tensor) else type(keep)
        raise InputError(f"give a bool tensor of shape ({count},), True keeps; got {found}")
    return keep.cpu()


def _checked(group: GateGroup, mask: object) -> Tensor:
    values = _as_tensor(mask)
    where = f"the mask of group {group.name!r}"
    if values is None:
        raise InputError(
            f"{where} is a {type(mask).__name__}; give a bool tensor of shape ({group.size},), "
            "True keeps"
        )
    if values.dtype != torch.bool:
        raise InputError(
            f"{where} holds {_kind(values)}, it must be bool, True keeps. {_how(group, values)}"
        )
    if values.shape != (group.size,):
        raise InputError(f"{where} has shape {tuple(values.shape)}, it must be ({group.size},)")
    if not bool(values.any()):
        raise InputError(
            f"{where} closes all {group.size} channels; a layer without channels cannot run: keep "
            "at least one"
        )
    return values.cpu()


def _as_tensor(mask: object) -> Tensor | None:
    """A mask as a tensor, or None if it cannot be one."""
    try:
        return torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        return None


def _kind(values: Tensor) -> str:
    name = str(values.dtype).removeprefix("torch.")
    return f"{name} with NaN" if bool(values.isnan().any()) else name


def _how(group: GateGroup, values: Tensor) -> str:
    """How to make a mask of what was given."""
    if values.is_floating_point():
        return "Say which values keep a channel: mask > 0.5, or scores > threshold."
    return (
        "If these are 0 and 1: mask == 1. If they are indices of the channels to keep: mask = "
        f"torch.zeros({group.size}, dtype=torch.bool); mask[indices] = True."
    )
