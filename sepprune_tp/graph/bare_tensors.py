"""Parameters and buffers outside of layers: which of their entries meet which channels.

Beside every tensor that is computed from such parameters alone goes the number of the parameter
element that each of its elements came from, as labels do beside activations. Where the tensor meets
channels, the numbers say which axis of the parameter lies along them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.bare import BareAxis
from .labels import Channels, LabelStore, merge_along, varying_dims

__all__ = ["BareTensors", "Bundle", "Line"]


class Bundle(NamedTuple):
    """Entries that stand for several channels each: they go if these go, and the reverse.

    Attributes:
        entries: Labels, shape (n,).
        members: Labels of the channels of each, shape (n, m).
    """

    entries: Tensor
    members: Tensor


@dataclass(frozen=True)
class Line:
    """What lies along one axis of a computed tensor.

    Attributes:
        name: Dotted name of the parameter.
        axis: Its axis that varies.
        index: Entry of it at each position, shape (n,).
    """

    name: str
    axis: int
    index: Tensor


class BareTensors:
    """Numbers of the elements of every parameter and buffer, and the labels of their axes.

    Attributes:
        labels: By name and axis, the label of each entry; made when first asked for.
        bundles: Entries that met several channels each.
    """

    def __init__(self, model: nn.Module, channels: Channels) -> None:
        self._model, self._channels = model, channels
        self._store = LabelStore()
        state = [*model.named_parameters(), *model.named_buffers()]
        self.tensors: dict[str, Tensor] = dict(state)
        self._by_storage: dict[int, list[str]] = {}
        self._names: list[str] = []
        self._starts: list[int] = []
        total = 1
        for name, tensor in state:
            self._by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(name)
            self._names.append(name)
            self._starts.append(total)
            total += tensor.numel()
        self._start_of = dict(zip(self._names, self._starts, strict=True))
        self._numbered: set[str] = set()
        self._usable = total < 1 << 31
        self.labels: dict[tuple[str, int], Tensor] = {}
        self.owners: dict[tuple[str, int], BareAxis] = {}
        self.bundles: list[Bundle] = []

    # -- numbers ----------------------------------------------------------------------------------

    def numbers(self, tensor: Tensor) -> Tensor | None:
        """Number of each element, shaped like ``tensor``; None if it is no parameter's."""
        for name in self._by_storage.get(tensor.untyped_storage()._cdata, ()):
            if name not in self._numbered and self._usable:
                self._numbered.add(name)
                whole = self.tensors[name]
                start = self._start_of[name]
                count = torch.arange(start, start + whole.numel(), dtype=torch.int32)
                self._store.set(whole, count.view(whole.shape))
        return self._store.get(tensor)

    def set(self, tensor: Tensor, numbers: Tensor) -> None:
        """Write the numbers of the elements of a computed tensor."""
        self._store.set(tensor, numbers)

    def known(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer, or computed from them alone."""
        return self.numbers(tensor) is not None

    def is_stored(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer itself, or a view of one."""
        return tensor.untyped_storage()._cdata in self._by_storage

    def name_of(self, tensor: Tensor) -> str | None:
        """Name of the parameter or buffer that a tensor is a view of, all of it; else None."""
        for name in self._by_storage.get(tensor.untyped_storage()._cdata, ()):
            whole = self.tensors[name]
            if tensor.numel() == whole.numel() and tensor.data_ptr() == whole.data_ptr():
                return name
        return None

    def names_in(self, numbers: Tensor) -> list[str]:
        """Names of the parameters that elements of a computed tensor come from."""
        ends = numbers.reshape(-1)[:: max(1, numbers.numel() // 4096)]
        owners = {bisect_right(self._starts, n) - 1 for n in ends.unique().tolist() if n}
        return [self._names[owner] for owner in sorted(owners)]

    # -- axes -------------------------------------------------------------------------------------

    def axis_labels(self, name: str, axis: int) -> Tensor:
        """The label of each entry along an axis, shape (n,), int64."""
        if (name, axis) not in self.labels:
            path, _, key = name.rpartition(".")
            self.labels[name, axis] = self._channels.fresh(self.tensors[name].shape[axis])
            self.owners[name, axis] = BareAxis(self._model.get_submodule(path), key, axis)
        return self.labels[name, axis]

    def lines(self, numbers: Tensor, dim: int) -> list[tuple[Tensor, Line]] | None:
        """What lies along one axis of a computed tensor.

        Args:
            numbers: Numbers of its elements.
            dim: The axis.

        Returns:
            Positions along the axis, and what lies there, for each parameter; None if an element
            is of no parameter or several axes of one vary together.
        """
        line = numbers.movedim(dim, -1)
        while line.dim() > 1:
            line = line[0]
        line = line.long()
        if not line.numel() or not bool(line.any()):
            return None
        found: list[tuple[Tensor, Line]] = []
        owner = torch.tensor(
            [bisect_right(self._starts, n) - 1 if n else -1 for n in line.tolist()]
        )
        for number in owner[owner >= 0].unique().tolist():
            where = (owner == number).nonzero().flatten()
            name = self._names[number]
            flat = line[where] - self._starts[number]
            if where.numel() == 1 and line.numel() > 1:
                return None
            varying = []
            step = self.tensors[name].numel()
            for axis, size in enumerate(self.tensors[name].shape):
                step //= size
                index = flat // step % size
                if size > 1 and bool((index != index[0]).any()):
                    varying.append((axis, index))
            if len(varying) != 1:
                return None
            found.append((where, Line(name, *varying[0])))
        return found

    def varying(self, numbers: Tensor) -> list[int]:
        """Axes along which numbers change."""
        return [d for d in range(numbers.dim()) if _changes(numbers, d)]

    # -- meetings ---------------------------------------------------------------------------------

    def met(self, numbers: Tensor, labels: Tensor) -> bool:
        """A computed tensor met channels element by element, both of one shape.

        Returns:
            Whether its axis could be told; else the channels are to be protected.
        """
        along = varying_dims(labels)
        axes = [d for d in along if _changes(numbers, d)]
        if not axes:
            return True
        if len(along) == 1:
            found = self.lines(numbers, along[0])
            return found is not None and self._meet_line(
                found, merge_along(labels, along[0], self._channels)
            )
        return self._meet_grid(numbers, labels, along, axes)

    def _meet_line(self, found: list[tuple[Tensor, Line]], merged: Tensor) -> bool:
        for where, line in found:
            entries = self.axis_labels(line.name, line.axis)[line.index]
            for one, other in zip(entries.tolist(), merged[where].tolist(), strict=True):
                self._channels.unite(one, other)
        return True

    def _meet_grid(
        self, numbers: Tensor, labels: Tensor, along: list[int], axes: list[int]
    ) -> bool:
        """Channels that lie along several axes: an entry may stand for several of them."""
        order = [*along, *(d for d in range(labels.dim()) if d not in along)]
        shape = [labels.size(d) for d in along]
        grid = labels.permute(order).reshape(*shape, -1).amax(-1)
        ids = numbers.permute(order).reshape(*shape, -1)[..., 0]
        if len(axes) > 1:  # one axis of the parameter, split like the channels
            flat = self.lines(ids.flatten(), 0)
            if flat is not None and len(flat) == 1:
                return self._meet_line(flat, grid.flatten().long())
        for place, dim in enumerate(along):
            if dim not in axes:
                continue
            found = self.lines(ids, place)
            if found is None:
                return False
            rows = grid.movedim(place, 0).flatten(1).long()
            for where, line in found:
                entries = self.axis_labels(line.name, line.axis)[line.index]
                self.bundles.append(Bundle(entries, rows[where]))
        return True

    def link(self, one: Tensor, other: Tensor) -> bool:
        """Two computed tensors met element by element (numbers of one shape): their axes are one.

        Returns:
            Whether every axis that both have could be told.
        """
        told = True
        for dim in range(one.dim()):
            if one.size(dim) > 1 and _changes(one, dim) and _changes(other, dim):
                first, second = self.lines(one, dim), self.lines(other, dim)
                if first is None or second is None or len(first) > 1 or len(second) > 1:
                    told = False
                    continue
                pairs = zip(self._entries(first[0][1]), self._entries(second[0][1]), strict=True)
                for a, b in pairs:
                    self._channels.unite(a, b)
        return told

    def _entries(self, line: Line) -> list[int]:
        found: list[int] = self.axis_labels(line.name, line.axis)[line.index].tolist()
        return found

    def as_labels(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Labels of a computed tensor that is used as an activation with channels along ``dim``."""
        numbers = self.numbers(tensor)
        if numbers is None or not _changes(numbers, dim):
            return None
        found = self.lines(numbers, dim)
        if found is None:
            return None
        line = torch.zeros(tensor.shape[dim], dtype=torch.long)
        for where, part in found:
            line[where] = self.axis_labels(part.name, part.axis)[part.index]
        shape = [1] * tensor.dim()
        shape[dim] = -1
        return line.view(shape).expand(tensor.shape).to(torch.int32)

    def axes_of(self) -> Iterator[tuple[tuple[str, int], BareAxis, Tensor]]:
        """Every axis that met channels, with its stand-in and labels."""
        for key, labels in self.labels.items():
            yield key, self.owners[key], labels


def _changes(numbers: Tensor, dim: int) -> bool:
    if numbers.size(dim) <= 1 or numbers.stride(dim) == 0:
        return False
    return bool((numbers.narrow(dim, 0, 1) != numbers.narrow(dim, 1, 1)).any())
