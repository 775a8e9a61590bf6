"""Channel labels: which channel each element of a tensor came from, and which channels are one.

A label is a positive integer, a channel of some layer; 0 stands for no channel (padding, a
constant). ``Channels`` is a union-find over labels with the reasons why some of them may not go.
``LabelStore`` keeps the labels of live tensors in a shadow of their *storage*: a view of the data
is the same view of the shadow, so an operation that only rearranges memory needs no rule at all.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = [
    "Channels",
    "LabelStore",
    "Meetings",
    "Place",
    "constant_along",
    "merge_along",
    "unite_pairs",
    "varying_dims",
]


@dataclass(frozen=True)
class Place:
    """Where channels met.

    Attributes:
        operation: Name of the operation (``add``, ``mul``, ``cat``...), or of the kind of layer.
        module: Dotted path of the module whose code ran it; empty for the model itself.
        line: ``file.py:line`` of the model's code, or empty if unknown.
    """

    operation: str
    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        inside = f"'{self.module}'" if self.module else "the model"
        return f"'{self.operation}' in {inside}" + (f" ({self.line})" if self.line else "")


@dataclass
class Meetings:
    """The unions that joined two components: a spanning forest over labels, in three columns."""

    one: array[int] = field(default_factory=lambda: array("q"))
    other: array[int] = field(default_factory=lambda: array("q"))
    place: array[int] = field(default_factory=lambda: array("q"))

    def add(self, one: int, other: int, place: int) -> None:
        """Record that two labels were united at a place (its number)."""
        self.one.append(one)
        self.other.append(other)
        self.place.append(place)


class Channels:
    """Union-find over channel labels; a component is what must be kept or removed together.

    Attributes:
        meetings: The unions that mattered, for explanations.
        places: Where they happened, by number.
        where: Tells the place of the union that is being made; asked only if the union matters.
        fixed_reasons: For labels made by :meth:`fixed`: the reason.
        virtual: Labels that no layer makes: each stands for several channels, such as a head.
        consumed: Labels that a gated call reads or pools.
        suspicions: For some labels, why the model may need all of them.
    """

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._reason: dict[int, tuple[str, int]] = {}
        self._ungated: dict[int, str] = {}
        self.meetings = Meetings()
        self.places: list[Place] = []
        self.where: Callable[[], int] | None = None
        self.fixed_reasons: dict[int, str] = {}
        self.virtual: set[int] = set()
        self.consumed: set[int] = set()
        self.suspicions: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        """Make ``count`` new labels, shape (count,), int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def fixed(self, reason: str) -> int:
        """Make one label that may not go, with the reason."""
        label = int(self.fresh(1))
        self.fixed_reasons[label] = reason
        self.protect([label], reason)
        return label

    def new_place(self, place: Place) -> int:
        """Number of a place where unions are about to be made."""
        self.places.append(place)
        return len(self.places) - 1

    def meet_at(self, place: Place) -> None:
        """Say where the unions to come are made, until the next call."""
        number = self.new_place(place)
        self.where = lambda: number

    def copy(self) -> Channels:
        """The same state, that goes its own way from here on."""
        made = Channels()
        made._parent = list(self._parent)
        made._reason, made._ungated = dict(self._reason), dict(self._ungated)
        for column in ("one", "other", "place"):
            setattr(made.meetings, column, array("q", getattr(self.meetings, column)))
        made.places, made.where = list(self.places), self.where
        made.fixed_reasons = dict(self.fixed_reasons)
        made.virtual, made.consumed = set(self.virtual), set(self.consumed)
        made.suspicions = dict(self.suspicions)
        return made

    def suspect(self, labels: list[int], reason: str) -> None:
        """Remember what protects channels if the model turns out to need them."""
        for label in labels:
            if label:
                self.suspicions.setdefault(label, reason)

    def find(self, label: int) -> int:
        """The representative of a label's component."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def unite(self, one: int, other: int) -> None:
        """Declare that two channels go together; 0 unites with nothing."""
        if not one or not other:
            return
        low, high = self.find(one), self.find(other)
        if low == high:
            return
        self.meetings.add(one, other, -1 if self.where is None else self.where())
        low, high = min(low, high), max(low, high)
        self._parent[high] = low
        for reasons in (self._reason, self._ungated):
            _hand_over(reasons, high, low)

    def unite_all(self, labels: Tensor) -> None:
        """Declare that all labels in a tensor are one channel."""
        members = torch.unique(labels).tolist()
        members = [m for m in members if m]
        for member in members[1:]:
            self.unite(members[0], member)

    def roots(self) -> Tensor:
        """Representative of every label, shape (labels + 1,), int64."""
        return torch.tensor([self.find(label) for label in range(len(self._parent))])

    def protect(self, labels: list[int], reason: str) -> None:
        """Forbid the removal of channels; the first reason given is kept."""
        for label in labels:
            if label:
                self._reason.setdefault(self.find(label), (reason, label))

    def leave_ungated(self, labels: list[int], reason: str) -> None:
        """Let channels be cut but not gated: a gate could not do what their removal does."""
        for label in labels:
            if label:
                self._ungated.setdefault(self.find(label), reason)

    def ungated(self, label: int) -> str | None:
        """Why a channel may have no gate, or None if it may."""
        return self._ungated.get(self.find(label))

    def reason(self, label: int) -> str | None:
        """Why a channel may not go, or None if it may."""
        return self._reason.get(self.find(label), (None, 0))[0]

    def protector(self, label: int) -> int | None:
        """The label of the same component that the reason was given for, or None."""
        return self._reason.get(self.find(label), ("", None))[1]


def _hand_over(reasons: dict[int, Any], old: int, new: int) -> None:
    """Let a representative take over the reason of another, unless it has one."""
    reason = reasons.pop(old, None)
    if reason is not None:
        reasons.setdefault(new, reason)


class LabelStore:
    """Labels of live tensors, kept in CPU shadows of their storages.

    Entries hold weak references and are dropped with the data, so the extra memory is that of the
    activations that are alive at the same time.
    """

    def __init__(self) -> None:
        self._shadows: dict[int, tuple[StorageWeakRef, Tensor, int]] = {}

    def get(self, tensor: Tensor) -> Tensor | None:
        """Labels of each element, shaped like ``tensor`` (int32, a view), or None: no channel."""
        storage = tensor.untyped_storage()
        entry = self._shadows.get(storage._cdata)
        if entry is None:
            return None
        reference, shadow, item = entry
        if reference.expired():
            del self._shadows[storage._cdata]
            return None
        if item != tensor.element_size():
            shadow = _resized(shadow, item, tensor.element_size())
        return shadow.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def set(self, tensor: Tensor, labels: Tensor | int) -> None:
        """Write the labels of each element; ``labels`` broadcasts to the shape of ``tensor``."""
        storage = tensor.untyped_storage()
        entry = self._shadows.get(storage._cdata)
        item = tensor.element_size()
        if entry is None or entry[0].expired() or entry[2] != item:
            if len(self._shadows) > 4096:
                self._drop_expired()
            shadow = torch.zeros(storage.nbytes() // item, dtype=torch.int32)
            entry = (StorageWeakRef(storage), shadow, item)
            self._shadows[storage._cdata] = entry
        view = entry[1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        if any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.size(), strict=True)):
            labels = torch.as_tensor(labels).expand(tensor.size())
            for dim, stride in enumerate(tensor.stride()):
                if stride == 0:
                    view, labels = view.narrow(dim, 0, 1), labels.narrow(dim, 0, 1)
        view.copy_(torch.as_tensor(labels))

    def collect(self) -> None:
        """Drop the shadows of storages that are gone."""
        self._drop_expired()

    def _drop_expired(self) -> None:
        self._shadows = {k: e for k, e in self._shadows.items() if not e[0].expired()}


def _resized(shadow: Tensor, item: int, new_item: int) -> Tensor:
    """Shadow of the same bytes read as elements of another size (complex as pairs of reals)."""
    if item > new_item:
        return shadow.repeat_interleave(item // new_item)
    factor = new_item // item
    return shadow[: shadow.numel() // factor * factor].view(-1, factor).amax(1)


def constant_along(labels: Tensor, dim: int) -> bool:
    """Whether labels do not change along ``dim``, zeros (no channel) aside."""
    if labels.size(dim) <= 1 or labels.stride(dim) == 0 or not labels.numel():
        return True
    first = labels.narrow(dim, 0, 1)
    if bool((labels == first).all()):
        return True
    if bool(labels.all()):
        return False
    highest = labels.amax(dim, keepdim=True)
    return bool(((labels == highest) | (labels == 0)).all())


def varying_dims(labels: Tensor) -> list[int]:
    """Axes along which labels change: the channel axes."""
    dims = []
    for dim in range(labels.dim()):
        if not constant_along(labels, dim):
            dims.append(dim)
        elif labels.size(dim) > 1:
            labels = labels.amax(dim, keepdim=True)  # exact: constant but for zeros
    return dims


def merge_along(labels: Tensor, axis: int, channels: Channels) -> Tensor:
    """One label for each index along ``axis``; different labels at one index are united.

    Args:
        labels: Labels of the elements of a tensor.
        axis: The axis to keep.
        channels: Where unions are recorded.

    Returns:
        Labels, shape (size of ``axis``,), int64; 0 where there is none.
    """
    for dim in range(labels.dim()):
        if dim != axis and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    rows = labels.movedim(axis, 0).reshape(labels.size(axis), -1)
    if not rows.numel():
        return torch.zeros(len(rows), dtype=torch.long)
    highest = rows.amax(1)
    mixed = ((rows != highest[:, None]) & (rows != 0)).any(1)
    for index in mixed.nonzero().flatten().tolist():
        channels.unite_all(rows[index])
    return highest.long()


def unite_pairs(channels: Channels, one: Tensor, other: Tensor, shape: torch.Size) -> None:
    """Unite the labels of two tensors that meet element by element.

    Args:
        channels: Where unions are recorded.
        one: Labels that broadcast to ``shape``.
        other: Likewise.
        shape: Of the result.
    """
    one, other = one.expand(shape), other.expand(shape)
    for dim in range(len(shape)):  # drop axes along which neither changes
        first_one, first_other = one.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
        if bool((one == first_one).all()) and bool((other == first_other).all()):
            one, other = first_one, first_other
    both = (one != 0) & (other != 0) & (one != other)
    left, right = one[both].long(), other[both].long()
    if left.numel():
        width = int(max(left.max(), right.max())) + 1
        for pair in torch.unique(left * width + right).tolist():
            channels.unite(*divmod(pair, width))
