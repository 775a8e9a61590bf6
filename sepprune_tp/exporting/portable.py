"""A copy of a model in a form that exporters take: same weights, same numbers.

Architectures register here what their code does in a way that no exporter follows, with other code
for the same; it is put on the copy's modules only.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from ..errors import InputError

__all__ = ["portable_copy", "register_forward", "register_preparation"]

_PLUGINS = {
    "asteroid": "sepprune_tp.architectures.asteroid_exporting",
    "asteroid_filterbanks": "sepprune_tp.architectures.asteroid_exporting",
}
_FORWARDS: dict[Callable[..., Any], Callable[..., Any]] = {}
_PREPARATIONS: dict[type[nn.Module], Callable[[Any], None]] = {}


def register_preparation(cls: type[nn.Module], prepare: Callable[[Any], None]) -> None:
    """Say what to do to modules of a class, not of its subclasses, in the copy.

    Args:
        cls: Class.
        prepare: Changes the module.

    Raises:
        InputError: If there is one already.
    """
    if cls in _PREPARATIONS:
        raise InputError(f"{cls.__qualname__} already has a preparation")
    _PREPARATIONS[cls] = prepare


def register_forward(original: Callable[..., Any], portable: Callable[..., Any]) -> None:
    """Say what computes the same as a class's ``forward``, for exporters.

    Args:
        original: ``Class.forward``; subclasses that inherit it are meant, too.
        portable: Takes the module, then what ``forward`` takes.

    Raises:
        InputError: If there is one already.
    """
    if original in _FORWARDS:
        raise InputError(f"{original.__qualname__} already has a portable form")
    _FORWARDS[original] = portable


def portable_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU in eval mode, its modules' code replaced where registered."""
    copied = copy.deepcopy(model).cpu().eval()
    for module in list(copied.modules()):
        for cls in type(module).__mro__:
            plugin = _PLUGINS.get(cls.__module__.partition(".")[0])
            if plugin is not None:
                importlib.import_module(plugin)
        portable = _FORWARDS.get(type(module).forward)
        if portable is not None and "forward" not in vars(module):
            module.forward = MethodType(portable, module)
        prepare = _PREPARATIONS.get(type(module))
        if prepare is not None:
            prepare(module)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return copied
