"""Channel axes that a reshape splits in two or more: what must go together so that they still can.

A layer makes C * F channels and the model's code gives them the shape (C, F). With the C of each
column united, F shrinks; with the F of each row united, C shrinks, which is possible only where the
code takes C from the shape of another tensor. Which of the two holds is known when the whole model
has run, so rectangles are gathered during the trace and settled after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .labels import Channels, Place

__all__ = ["Rectangle", "rectangle", "settle"]


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


def settle(rectangles: Sequence[Rectangle], channels: Channels, makers: Sequence[Tensor]) -> None:
    """Unite what each rectangle needs to stay one, in the order of execution.

    Uniting never breaks a rectangle that is settled, so one pass is enough.

    Args:
        rectangles: In the order of execution.
        channels: Where unions are recorded.
        makers: Labels of the output channels of each layer that makes its own.
    """
    for grid, place in rectangles:
        channels.meet_at(place)
        if not _shrinks_by_rows(grid, channels, makers):
            for dim in range(grid.dim() - 1):
                for column in grid.movedim(dim, 0).flatten(1).unbind(1):
                    channels.unite_all(column)


def _shrinks_by_rows(grid: Tensor, channels: Channels, makers: Sequence[Tensor]) -> bool:
    """Whether whole rows go, and another layer makes just these channels, one a row, in order.

    Such a layer is what the code took the number of rows from. Without one it may be a constant.
    """
    components = _components(grid, channels)
    for axis in range(grid.dim() - 1):
        rows = components.movedim(axis, 0).flatten(1)
        if bool((rows == rows[:, :1]).all()):
            return any(
                torch.equal(_components(made, channels), rows[:, 0])
                for made in makers
                if made.numel() == rows.size(0)
            )
    return False


def _components(labels: Tensor, channels: Channels) -> Tensor:
    """The component of each label, int64; 0 stays 0."""
    values, inverse = torch.unique(labels, return_inverse=True)
    return torch.tensor([channels.find(label) for label in values.tolist()])[inverse]
