"""What is particular to one family of models: which part separates, attributes that hold counts.

One file a family; the graph, gates and pruner ask only through the functions here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..errors import InputError

__all__ = ["Adapter", "adapters_in", "register_adapter", "separator_of", "sync_attributes"]

_PLUGINS = {
    "asteroid": "sepprune_tp.architectures.asteroid",
    "torch": "sepprune_tp.architectures.torch_layers",
}
_ADAPTERS: dict[type[nn.Module], Adapter] = {}
_SEPARATORS = ("masker", "separator", "separation", "sm", "mask_net", "mask_generator")


@dataclass(frozen=True)
class Adapter:
    """How the attributes of one class follow from the widths of its layers.

    Attributes:
        sync: Sets the attributes of a module that hold channel counts from its layers.
        ties: Pairs of layers whose output channels share one such attribute: (first, second,
            repeats); the second has ``repeats`` times the channels of the first, part by part.
    """

    sync: Callable[[nn.Module], None]
    ties: Callable[[nn.Module], list[tuple[nn.Module, nn.Module, int]]] = lambda module: []


def register_adapter(cls: type[nn.Module], adapter: Adapter) -> None:
    """Give a class of modules its adapter.

    Raises:
        InputError: If it has one already.
    """
    if cls in _ADAPTERS:
        raise InputError(f"{cls.__qualname__} already has an adapter")
    _ADAPTERS[cls] = adapter


def adapters_in(model: nn.Module) -> list[tuple[nn.Module, Adapter]]:
    """The modules of a model that have an adapter, with it."""
    found = []
    for module in model.modules():
        plugin = _PLUGINS.get(type(module).__module__.partition(".")[0])
        if plugin is not None:
            importlib.import_module(plugin)
        for base in type(module).__mro__:
            if base in _ADAPTERS:
                found.append((module, _ADAPTERS[base]))
                break
    return found


def sync_attributes(model: nn.Module) -> None:
    """Make every attribute that holds a channel count true again after pruning."""
    for module, adapter in adapters_in(model):
        adapter.sync(module)


def separator_of(model: nn.Module) -> nn.Module:
    """The part of a model that separates: the masker.

    Args:
        model: An encoder - masker - decoder model.

    Returns:
        Its separator.

    Raises:
        InputError: If the model has none under a known name.
    """
    for name in _SEPARATORS:
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            return part
    raise InputError(
        f"{type(model).__name__} has no masker: none of its attributes is called "
        f"{', '.join(_SEPARATORS)}. Use scope='all' to consider every layer, or give a list of "
        "modules as the scope."
    )
