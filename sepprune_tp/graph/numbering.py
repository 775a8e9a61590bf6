"""Which elements of a layer's tensors are left after a cut: a copy that holds numbers is cut.

This needs no knowledge of the layer: whatever its pruning function keeps, the numbers say.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.bare import BareTensor
from ..layers.composite import parts_of

__all__ = ["Axis", "Held", "moved"]

Axis = list[int] | None
"""Indices in the dense tensor along one axis; None: all."""


@dataclass
class Held:
    """What a tensor holds of the dense model.

    Attributes:
        source: Name of the dense tensor.
        axes: Kept indices along each axis.
    """

    source: str
    axes: list[Axis]


def moved(
    owner: nn.Module | nn.Parameter,
    name: str,
    handler: Callable[..., Any],
    indices: list[int],
    dim: int | None,
) -> Iterator[tuple[str, dict[str, Held]]]:
    """Cut a copy of a layer that holds numbers.

    Args:
        owner: The layer, or a bare parameter; it stays as it is.
        name: Its dotted name in the model.
        handler: What cuts it.
        indices: Channels that go.
        dim: The axis of a bare parameter that is cut.

    Yields:
        The name of each tensor of the layer, and the tensors that hold what is left of it.

    Raises:
        ValueError: If what is left of a tensor is no grid of its elements.
    """
    if isinstance(owner, BareTensor):
        side = "in" if "in_channels" in handler.__name__ else "out"
        along, left = owner.left(side, indices)
        kept: list[Axis] = [left if d == along else None for d in range(owner.tensor.dim())]
        path = name.partition(" (axis")[0]
        yield path, {path: Held(path, kept)}
        return
    if isinstance(owner, nn.Parameter):
        assert dim is not None
        gone = set(indices)
        left = [i for i in range(owner.shape[dim]) if i not in gone]
        axes: list[Axis] = [left if d == dim else None for d in range(owner.dim())]
        yield name, {name: Held(name, axes)}
        return
    host: nn.Module = getattr(owner, "host", owner)  # a part owns nothing
    prefix = name if host is owner else name.rpartition(".")[0]
    prefix = f"{prefix}." if prefix else ""
    old = dict(_tensors(host))
    if not old:
        return
    memo, starts = _numbers(list(old.values()))
    numbered = copy.deepcopy(host, memo)
    counterpart = numbered
    if host is not owner:
        part = next(key for key, value in parts_of(host).items() if value is owner)
        counterpart = parts_of(numbered)[part]
    handler(counterpart, indices)
    names = {starts[id(tensor)]: key for key, tensor in reversed(old.items())}
    after: dict[str, dict[str, Held]] = {prefix + key: {} for key in old}
    for key, tensor in _tensors(numbered):
        if not tensor.numel():
            continue
        start = max(s for s in names if s <= int(tensor.flatten()[0]))
        source = key if key in old and starts[id(old[key])] == start else names[start]
        if bool((tensor != tensor.round()).any()):
            raise ValueError("what is left of a tensor was computed")
        axes = _grid(tensor.detach().long() - start, old[source].shape)
        after[prefix + source][prefix + key] = Held(prefix + source, axes)
    yield from after.items()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _numbers(tensors: list[Tensor]) -> tuple[dict[int, Any], dict[int, int]]:
    """Stand-ins that hold the number of each element, and the first number, by tensor."""
    memo: dict[int, Any] = {}
    starts: dict[int, int] = {}
    total = 0
    for tensor in tensors:
        if id(tensor) not in memo:
            numbers = torch.arange(total, total + tensor.numel(), dtype=torch.float64)
            numbers = numbers.view(tensor.shape)
            parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(numbers, requires_grad=False) if parameter else numbers
            starts[id(tensor)] = total
            total += max(1, tensor.numel())
    return memo, starts


def _grid(numbers: Tensor, shape: torch.Size) -> list[Axis]:
    """The indices along each axis of a tensor of some shape whose grid the numbers are.

    Raises:
        ValueError: If they are no grid of it.
    """
    if numbers.dim() != len(shape):
        raise ValueError("it has another number of axes")
    axes: list[Axis] = []
    expected = torch.zeros((), dtype=torch.long)
    for d, size in enumerate(shape):
        step = int(torch.Size(shape[d + 1 :]).numel())
        line = numbers[tuple(slice(None) if e == d else 0 for e in range(numbers.dim()))]
        index = line.div(step, rounding_mode="floor") % size
        expected = expected.unsqueeze(-1) + index * step
        whole = torch.equal(index, torch.arange(size))
        if index.unique().numel() != index.numel():
            raise ValueError("what is left of a tensor is no grid")
        axes.append(None if whole else index.tolist())
    with suppress(RuntimeError):
        if torch.equal(expected, numbers):
            return axes
    raise ValueError("what is left of a tensor is no grid")
