"""Layers that are several layers in one: their parts, and how to run them part by part.

``nn.MultiheadAttention`` keeps four linear layers and two products in one module, with packed
weights and one size for all. Graph, gates and profile see its *parts* instead, modules that stand
for slices of its weights; while they watch, the module computes through its parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .patched import PatchedForward

__all__ = [
    "Composite",
    "allow_fused_layers",
    "composite_of",
    "hosts_in",
    "named_layers",
    "parts_of",
    "register_composite",
    "run_by_parts",
]


class Composite(ABC):
    """Knowledge of one kind of layer that is made of parts.

    Law: :meth:`forward` computes what the module's own forward computes (up to rounding), and every
    weight of the module takes part through its parts or its submodules.
    """

    @abstractmethod
    def make_parts(self, module: Any) -> dict[str, nn.Module]:
        """The parts by name; each has a rule, and refers to the module weakly."""

    @abstractmethod
    def forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the module through its parts."""

    def tensor_names(self, module: Any, sizes: Mapping[str, Any]) -> set[str]:
        """Names of the module's own tensors once it has the form that was saved."""
        own = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        return {name for tensors in own for name, _ in tensors}

    @abstractmethod
    def adopt(self, module: Any, sizes: Mapping[str, Any]) -> None:
        """Take the form that a saved module had, before its sizes and tensors are set.

        Args:
            module: A module as its constructor makes it.
            sizes: The size attributes of the saved one.
        """


_FORWARDS: dict[Any, Composite] = {}
_PARTS: WeakKeyDictionary[nn.Module, dict[str, nn.Module]] = WeakKeyDictionary()


def register_composite(composite: Composite, *types: type[nn.Module]) -> None:
    """Say that modules which run the ``forward`` of one of ``types`` are made of parts."""
    for cls in types:
        _FORWARDS[cls.forward] = composite


def composite_of(module: nn.Module) -> Composite | None:
    """The knowledge of a module that has parts, or None."""
    composite = _FORWARDS.get(type(module).forward)
    return composite if composite is not None and parts_of(module) else None


def parts_of(module: nn.Module) -> dict[str, nn.Module]:
    """The parts of a module by name, always the same objects; empty for most modules."""
    composite = _FORWARDS.get(type(module).forward)
    if composite is None:
        return {}
    if module not in _PARTS:
        _PARTS[module] = composite.make_parts(module)
    return _PARTS[module]


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of a model with its dotted name, and behind each the parts that it has."""
    for name, module in model.named_modules():
        yield name, module
        for part, layer in parts_of(module).items():
            yield f"{name}.{part}" if name else part, layer


def hosts_in(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules among ``modules`` that have parts."""
    return [module for module in modules if parts_of(module)]


def allow_fused_layers(allowed: bool) -> None:
    """Whether torch's transformer layers may run without calling their submodules."""
    torch.backends.mha.set_fastpath_enabled(allowed)


@contextmanager
def run_by_parts(
    modules: Iterable[nn.Module], when: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Let modules compute through their parts, and transformer layers call their submodules.

    Args:
        modules: Modules; those without parts are left alone.
        when: Asked at each call; the module's own forward runs where it says no.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    saved: list[tuple[nn.Module, Any]] = []
    try:
        allow_fused_layers(False)
        for module in hosts_in(modules):
            saved.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = _through_parts(module, module.forward, when)
        yield
    finally:
        for module, forward in reversed(saved):
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
        allow_fused_layers(fused)


def _through_parts(
    module: nn.Module, own: Callable[..., Any], when: Callable[[], bool]
) -> Callable[..., Any]:
    composite = _FORWARDS[type(module).forward]

    def forward(*args: Any, **kwargs: Any) -> Any:
        if when():
            return composite.forward(module, *args, **kwargs)
        return own(*args, **kwargs)

    return PatchedForward(module, forward)
