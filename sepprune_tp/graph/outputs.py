"""Tensors in what a model returns, wherever they are held."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GraphError

__all__ = ["tensors_of"]

_PLAIN = (
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    range,
    slice,
    enum.Enum,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.Size,
    torch.Generator,
    nn.Module,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
)


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in an output, in the order in which it holds them.

    Lists, tuples, sets and mappings are walked, and the attributes of any other object
    (dataclasses, namespaces, a library's own result types). Arrays count as tensors.

    Args:
        output: What a model returned.

    Returns:
        Each tensor once for every place that holds it.

    Raises:
        GraphError: With the type of an object that cannot be opened.
    """
    return list(_walk(output, "the output", set()))


def _walk(value: Any, where: str, inside: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, _PLAIN) or id(value) in inside:
        return
    if type(value).__module__ == "numpy":
        if hasattr(value, "shape") and value.shape:
            yield torch.as_tensor(value)
        return
    inside = {*inside, id(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        for number, item in enumerate(value):
            yield from _walk(item, f"{where}[{number}]", inside)
        if not _attributes(value):
            return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, f"{where}[{key!r}]", inside)
        return
    attributes = _attributes(value)
    if not attributes and not isinstance(value, (list, tuple, set, frozenset)):
        if hasattr(value, "__dict__") or _slots(type(value)):
            return  # nothing is set
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise GraphError(
            f"{where} of the model holds a {kind}, whose contents cannot be looked into: whether "
            "channels reach it is not known. Give output_transform= that returns its tensors."
        )
    for name, item in attributes.items():
        yield from _walk(item, f"{where}.{name}", inside)


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for name in _slots(type(value)):
        if hasattr(value, name):
            found.setdefault(name, getattr(value, name))
    return found


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names.extend([slots] if isinstance(slots, str) else slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]
