"""What is particular to one family of models: which part separates, attributes that hold counts.

One file a family; the graph, gates and pruner ask only through the functions here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..errors import InputError
from .asteroid_mends import mend_asteroid

__all__ = [
    "Adapter",
    "Tie",
    "adapters_in",
    "mend_asteroid",
    "part_names",
    "register_adapter",
    "separators_of",
    "sync_attributes",
]

_PLUGINS = {
    "asteroid": "sepprune_tp.architectures.asteroid",
    "torch": "sepprune_tp.architectures.torch_layers",
}
_ADAPTERS: dict[type[nn.Module], Adapter] = {}
_WRAPPED = ("module", "model")
# Names of the top-level attribute that separates, in Asteroid and in the authors' models. Of
# several in one model the first here is it, and the others are what stands beside it.
_SEPARATORS = (
    "masker",
    "masknet",
    "separator",
    "separation",
    "separation_module",
    "sm",
    "mask_net",
    "mask_generator",
)
_USUAL = ("encoder", "decoder", *_SEPARATORS)


@dataclass(frozen=True)
class Tie:
    """Two layers whose output channels one attribute, or the shape of one tensor, counts.

    Attributes:
        first: A layer.
        second: Another.
        index: For each output channel of ``second``, the one of ``first`` that it goes with.
    """

    first: nn.Module
    second: nn.Module
    index: list[int]


@dataclass(frozen=True)
class Adapter:
    """What a model's own code says about the widths of its layers and a trace cannot see.

    Attributes:
        sync: Sets the attributes of a module that hold channel counts from its layers.
        ties: Pairs of layers whose output channels share such an attribute.
        parts: For a whole model: which part (``encoder``, ``separator``, ``decoder``) each of its
            attributes belongs to, where the usual names do not tell.
    """

    sync: Callable[[nn.Module], None]
    ties: Callable[[nn.Module], list[Tie]] = lambda module: []
    parts: Mapping[str, str] = field(default_factory=dict)


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
    pairs = ((module, _adapter_of(module)) for module in model.modules())
    return [(module, adapter) for module, adapter in pairs if adapter is not None]


def _adapter_of(module: nn.Module) -> Adapter | None:
    plugin = _PLUGINS.get(type(module).__module__.partition(".")[0])
    if plugin is not None:
        importlib.import_module(plugin)
    return next((_ADAPTERS[base] for base in type(module).__mro__ if base in _ADAPTERS), None)


def sync_attributes(model: nn.Module) -> None:
    """Make every attribute that holds a channel count true again after pruning."""
    for module, adapter in adapters_in(model):
        adapter.sync(module)


def part_names(model: nn.Module) -> dict[str, str]:
    """Which part of a separation model each of its top-level attributes is.

    Args:
        model: The model; one inside a wrapper's ``module`` or ``model`` is found.

    Returns:
        ``encoder``, ``separator`` or ``decoder`` by attribute name; of attributes that are none of
        these, nothing.
    """
    inner = _unwrapped(model)
    adapter = _adapter_of(inner)
    found = {"encoder": "encoder", "decoder": "decoder"}
    if adapter is not None and adapter.parts:
        return found | dict(adapter.parts)
    held = [name for name in _SEPARATORS if isinstance(getattr(inner, name, None), nn.Module)]
    return found | dict.fromkeys(held[:1], "separator")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers that hold it under a usual name and have no parts themselves."""
    for name in _WRAPPED:
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and not any(hasattr(model, n) for n in _USUAL):
            return _unwrapped(inner)
    return model


def separators_of(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that separate: its masker, or the layers that make one up.

    Args:
        model: An encoder - masker - decoder model.

    Returns:
        Its separator, one module in most models.

    Raises:
        InputError: If the model has none under a known name.
    """
    inner = _unwrapped(model)
    names = [name for name, part in part_names(model).items() if part == "separator"]
    if not names:
        raise InputError(
            f"{type(model).__name__} has no masker: none of its attributes is called "
            f"{', '.join(_SEPARATORS)}. Use scope='all' to consider every layer, or give a list of "
            "modules as the scope."
        )
    return [inner.get_submodule(name) for name in names]
