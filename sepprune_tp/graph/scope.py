"""Where channels may be pruned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..architectures import separators_of
from ..errors import InputError
from ..layers.bare import BareTensor
from ..layers.composite import named_layers

__all__ = ["Scope", "check_scope", "host_of", "modules_in_scope"]

Scope = str | Sequence[nn.Module]
"""``"separator"``, ``"all"``, or modules: groups whose channels are all made inside them."""


def check_scope(scope: Scope) -> Scope:
    """Refuse an unknown word.

    Raises:
        InputError: If it is neither ``"separator"``, ``"all"`` nor a list.
    """
    if isinstance(scope, str) and scope not in ("separator", "all"):
        raise InputError(f"scope is {scope!r}; it must be 'separator', 'all' or a list of modules")
    return scope


def modules_in_scope(scope: Scope, model: nn.Module) -> set[nn.Module] | None:
    """The modules whose channels may be pruned, or None for all.

    Raises:
        InputError: If the model has no masker, or a listed module is not part of it.
    """
    if isinstance(scope, str):
        if scope == "all":
            return None
        return {part for module in separators_of(model) for part in _inside(module)}
    known = set(model.modules())
    for module in scope:
        if module not in known:
            raise InputError(
                f"scope lists a {type(module).__name__} that is not part of "
                f"{type(model).__name__}; list modules of the model itself"
            )
    return {part for module in scope for part in _inside(module)}


def host_of(owner: nn.Module | nn.Parameter, name: str, model: nn.Module) -> nn.Module:
    """The module of ``model`` that holds a bare parameter or buffer; a layer is its own."""
    if isinstance(owner, BareTensor):
        return owner.host
    if isinstance(owner, nn.Parameter):
        return model.get_submodule(name.rpartition(".")[0])
    return owner


def _inside(module: nn.Module) -> set[nn.Module]:
    """A module's submodules, with the parts of composite layers."""
    return {layer for _, layer in named_layers(module)}
