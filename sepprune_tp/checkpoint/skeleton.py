"""Which class a model is, as plain data, and how to build an instance of it again."""

from __future__ import annotations

from typing import Any

from torch import nn

from sepprune_tp.architectures.asteroid_models import asteroid_args, build_asteroid, is_asteroid
from sepprune_tp.architectures.bounded import Room
from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import short

__all__ = ["build_skeleton", "describe_class"]


def describe_class(model: nn.Module) -> dict[str, Any]:
    """Family, name and arguments of a model's class.

    Args:
        model: Any model. One of Asteroid's is described by its class and ``get_model_args()``.

    Returns:
        ``{"family": "asteroid" | "module", "name": str, "args": dict}``, plain data.
    """
    cls = type(model)
    if is_asteroid(model):
        return {"family": "asteroid", "name": cls.__name__, "args": asteroid_args(model)}
    return {"family": "module", "name": f"{cls.__module__}.{cls.__qualname__}", "args": {}}


def build_skeleton(architecture: dict[str, Any], where: str, room: Room | None = None) -> nn.Module:
    """Build an instance with the module tree that ``describe_class`` saw.

    Args:
        architecture: What ``describe_class`` returned.
        where: The file that it came from, for messages.
        room: What the tensors of that file give reason to build.

    Returns:
        A model with random weights. Torch's global random state is as it was.

    Raises:
        CheckpointError: If the class is not one that can be built from its arguments.
    """
    if architecture.get("family") == "asteroid":
        name, args = architecture.get("name"), architecture.get("args") or {}
        if not isinstance(name, str) or not isinstance(args, dict):
            raise CheckpointError(
                f"{where} does not describe its model by name and arguments: it was damaged. Write "
                "it again with save_pruned."
            )
        return build_asteroid(name, args, where, room)
    raise CheckpointError(
        f"{where} holds a {short(architecture.get('name'), 120)}, which is not an Asteroid "
        "model: only its shapes and tensors are stored. Build it as it was before pruning and pass "
        "it: load_pruned(path, model=MyModel(...)), or in a command FILE@module:function, which "
        "builds it"
    )
