"""Channel axes that a reshape splits in two or more: what must go together so that they still can.

A layer makes C * F channels and the model's code gives them the shape (C, F). With the C of each
column united, F shrinks; with the F of each row united, C shrinks. Which of the two the code allows
is known when the whole model has run, so rectangles are gathered during the trace and settled after
it, more than once where the proof refutes a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .bare_tensors import Bundle
from .labels import Channels, Place

__all__ = ["Rectangle", "default_axis", "rectangle", "settle"]


def rectangle(labels: Tensor, axes: Sequence[int]) -> Tensor:
    """The labels of a split channel axis.

    Args:
        labels: Labels of a reshaped tensor.
        axes: The axes along which they change.

    Returns:
        A copy with these axes only; the others are constant but for zeros (no channel).
    """
    for dim in range(labels.dim()):
        if dim not in axes and labels.size(dim) > 1:
            labels = labels.amax(dim, keepdim=True)
    return labels.reshape([labels.size(dim) for dim in axes]).clone()


class Rectangle(NamedTuple):
    """A split channel axis.

    Attributes:
        labels: As :func:`rectangle` gives them.
        place: Where the reshape is.
    """

    labels: Tensor
    place: Place


def settle(
    rectangles: Sequence[Rectangle],
    channels: Channels,
    makers: Sequence[Tensor],
    bundles: Sequence[Bundle] = (),
    axes: Mapping[int, int] | None = None,
) -> None:
    """Unite what each rectangle needs to stay one, in the order of execution.

    Uniting never breaks a rectangle that is settled, so one pass is enough.

    Args:
        rectangles: In the order of execution.
        channels: Where unions are recorded.
        makers: Labels of the output channels of each layer that makes its own.
        bundles: Labels that stand for several channels each, such as heads.
        axes: For some rectangles, by position, the axis along which they shrink.
    """
    axes = axes or {}
    heads = _Heads(bundles, channels)
    for number, (grid, place) in enumerate(rectangles):
        heads.settle()
        channels.meet_at(place)
        axis = axes.get(number, default_axis(grid, channels))
        for dim in range(grid.dim()):
            if dim != axis:
                for column in grid.movedim(dim, 0).flatten(1).unbind(1):
                    channels.unite_all(column)
    heads.settle()
    heads.protect_rest({label for labels in makers for label in labels.tolist()})


def default_axis(grid: Tensor, channels: Channels) -> int:
    """The axis along which a rectangle shrinks where nothing else is known.

    One whose rows are united already, so that no other can shrink; else the last. What the code
    takes for a constant all the same, the proof finds.
    """
    components = _components(grid, channels)
    for axis in range(grid.dim() - 1):
        rows = components.movedim(axis, 0).flatten(1)
        if bool((rows == rows[:, :1]).all()) and rows[:, 0].unique().numel() > 1:
            return axis
    return grid.dim() - 1


class _Heads:
    """Entries that stand for several channels each, settled as far as these go together."""

    def __init__(self, bundles: Sequence[Bundle], channels: Channels) -> None:
        self._channels = channels
        self._whole: set[int] = set()
        self._left = [
            (entry, sorted({m for m in members if m}))
            for bundle in bundles
            if _apart(bundle)
            for entry, members in zip(bundle.entries.tolist(), bundle.members.tolist(), strict=True)
            if entry
        ]

    def settle(self) -> None:
        """Unite entries with channels that go together, and these with all that the entry is."""
        find, changed = self._channels.find, bool(self._left)
        self._channels.meet_at(Place("heads"))
        while changed:
            changed = False
            whole = {find(label) for label in self._whole}
            left = []
            for entry, members in self._left:
                together = len({find(member) for member in members}) == 1
                if members and (together or find(entry) in whole):
                    for member in members:
                        self._channels.unite(entry, member)
                    self._whole.add(entry)
                    changed = True
                else:
                    left.append((entry, members))
            self._left = left

    def protect_rest(self, made: set[int]) -> None:
        """Protect channels that stand for whole heads where heads shrink but stay."""
        roots = {self._channels.find(label) for label in made if label}
        for entry, members in self._left:
            if members and self._channels.find(entry) in roots:
                self._channels.protect(
                    [entry],
                    "each of its channels stands for several of another layer, such as a head",
                )


def _apart(bundle: Bundle) -> bool:
    """Whether no channel belongs to several entries."""
    rows = bundle.members
    if len(rows) < 2:
        return True
    owner = torch.arange(len(rows))[:, None].expand_as(rows)
    pairs = torch.stack([rows.flatten(), owner.flatten()])[:, rows.flatten() > 0]
    pairs = torch.unique(pairs, dim=1)
    return bool(pairs[0].unique().numel() == pairs.shape[1])


def _components(labels: Tensor, channels: Channels) -> Tensor:
    """The component of each label, int64; 0 stays 0."""
    values, inverse = torch.unique(labels, return_inverse=True)
    return torch.tensor([channels.find(label) for label in values.tolist()])[inverse]
