"""Which slices of which parameters a layer loses when some of its channels go.

No rule has to declare this: the layer's own pruning functions cut a copy whose parameters hold
numbers of their own, and what is missing afterwards is what the channels own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..layers.composite import parts_of

__all__ = ["Slice", "lost_slices", "ranges"]


@dataclass(frozen=True)
class Slice:
    """Part of a parameter that goes with some channels.

    Attributes:
        parameter: Dotted name in the model.
        shape: Of the whole parameter.
        dim: The axis that is cut.
        indices: Along that axis.
    """

    parameter: str
    shape: tuple[int, ...]
    dim: int
    indices: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of values in the slice."""
        return math.prod(self.shape) // self.shape[self.dim] * len(self.indices)

    def __str__(self) -> str:
        axes = [":"] * len(self.shape)
        axes[self.dim] = ranges(self.indices)
        kind = ("rows", "columns")[self.dim] if self.dim < 2 <= len(self.shape) else ""
        return f"{self.parameter}[{', '.join(axes)}]" + (f" {kind}" if kind else "")


def ranges(indices: Iterable[int], most: int = 4) -> str:
    """Indices as a few half-open ranges: ``0:4, 7, 9:12`` becomes ``{0:4, 7, 9:12}``.

    Args:
        indices: Any order.
        most: Ranges to show; of the rest only their number is told.

    Returns:
        One range without braces, several with.
    """
    ordered = sorted(set(indices))
    breaks = [i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1]
    runs = [
        f"{ordered[low]}:{ordered[high - 1] + 1}" if high - low > 1 else f"{ordered[low]}"
        for low, high in pairwise([0, *breaks, len(ordered)])
        if high > low
    ]
    if len(runs) <= 1:
        return "".join(runs)
    rest = len(runs) - most
    more = f", ... {len(ordered)} in all" if rest > 0 else ""
    return "{" + ", ".join(runs[:most]) + more + "}"


def lost_slices(
    module: nn.Module,
    name: str,
    cut: Callable[[nn.Module, Sequence[int]], Any],
    channels: Sequence[Sequence[int]],
    part: str | None = None,
) -> list[Slice]:
    """Find what a layer loses with some of its channels.

    Args:
        module: The layer, or the composite layer that it is a part of; it is not changed.
        name: Its dotted name.
        cut: The pruning function of the side that the channels are on.
        channels: Indices on that side, those that have to go together in one item.
        part: Name of the part of a composite layer that loses the channels.

    Returns:
        One slice for each axis of each parameter that is cut.
    """
    half = max(1, len(channels) // 2)  # never all at once: a layer with no channels left may fail
    found: dict[tuple[str, int], set[int]] = {}
    for some in (channels[:half], channels[half:]):
        if some:
            twin = _numbered(module)
            cut(twin if part is None else parts_of(twin)[part], sorted(i for c in some for i in c))
            for key, gone in _missing(module, twin):
                found.setdefault(key, set()).update(gone)
    shapes = {key: tuple(p.shape) for key, p in module.named_parameters()}
    return [
        Slice(f"{name}.{key}" if name else key, shapes[key], dim, tuple(sorted(gone)))
        for (key, dim), gone in found.items()
    ]


def _numbered(module: nn.Module) -> nn.Module:
    """A copy in which every element of every parameter is a number of its own, from 1."""
    memo: dict[int, Any] = {}
    start = 1
    for parameter in module.parameters():
        numbers = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
        memo[id(parameter)] = nn.Parameter(numbers.view(parameter.shape), requires_grad=False)
        start += parameter.numel()
    twin = copy.deepcopy(module, memo)
    twin.__dict__.pop("forward", None)  # that of a gate, if the gates are on
    return twin


def _missing(module: nn.Module, twin: nn.Module) -> Iterator[tuple[tuple[str, int], set[int]]]:
    """What a numbered copy has lost along each axis, under whatever names the rest now stands."""
    count = sum(p.numel() for p in module.parameters())
    present = torch.zeros(count + 1, dtype=torch.bool)
    for parameter in twin.parameters():
        present[parameter.detach().flatten().long()] = True
    start = 1
    for key, before in module.named_parameters():
        left = present[start : start + before.numel()].view(before.shape)
        start += before.numel()
        for dim in range(before.dim()):
            gone = ~left.movedim(dim, 0).reshape(before.size(dim), -1).any(1)
            if bool(gone.any()) and (bool(left.any()) or dim == 0):
                yield (key, dim), set(gone.nonzero().flatten().tolist())
