"""The weights of a recurrent layer, laid out as those of linear layers.

torch-pruning's importances know convolutions, linear and norm layers. They pass over a recurrent
layer, so its hidden units would be scored by whatever reads them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .base import Side

__all__ = ["LinearView", "recurrent_views", "row_view"]


class _LinearStandIn(nn.Linear):
    """A linear layer whose weight and gradient are read from another layer when they are asked for.

    It has no bias, and what is written to its weight is lost.
    """

    def __init__(self, sources: list[nn.Parameter], layout: Callable[[list[Tensor]], Tensor]):
        nn.Module.__init__(self)
        self._sources, self._layout = (sources,), layout  # in a tuple: they are not registered
        self.in_features, self.out_features = self.weight.shape[1], self.weight.shape[0]
        self.bias = None  # type: ignore[assignment]

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The weight, with ``.grad`` if every source has one; shape (out, in)."""
        (sources,) = self._sources
        weight = nn.Parameter(self._layout([p.detach() for p in sources]), requires_grad=False)
        gradients = [p.grad for p in sources if p.grad is not None]
        if len(gradients) == len(sources):
            weight.grad = self._layout(gradients)
        return weight


@dataclass(frozen=True)
class LinearView:
    """Some weights of a layer as a linear layer.

    Attributes:
        layer: The stand-in.
        side: Whether the channels are its outputs (rows) or its inputs (columns).
        offset: Row or column of channel 0.
    """

    layer: nn.Linear
    side: Side
    offset: int = 0


def row_view(weight: Tensor, axis: int, parts: int = 1, grad: Tensor | None = None) -> LinearView:
    """The weights of each channel along an axis as a row of a linear layer.

    Args:
        weight: Any tensor.
        axis: Where the channels lie.
        parts: How often the axis stands for other channels (groups that share it).
        grad: Its gradient, or None.
    """

    def rows(tensor: Tensor) -> Tensor:
        return tensor.detach().movedim(axis, 0).flatten(1).repeat(parts, 1)

    made = rows(weight if weight.dim() > 1 else weight[:, None])
    layer = nn.Linear(made.shape[1], made.shape[0], False, device="meta")
    layer.weight = nn.Parameter(made, requires_grad=False)
    if grad is not None:
        layer.weight.grad = rows(grad if grad.dim() > 1 else grad[:, None])
    return LinearView(layer, "out")


def recurrent_views(module: Any, side: Side, gates: int) -> list[LinearView]:
    """All weights of an LSTM, GRU or RNN that belong to its input channels or hidden units.

    To hidden unit ``j`` belong, in each layer and direction, the rows that compute it (of all
    gates, from inputs and state: one row here) and the columns that read it (in ``weight_hh``, and
    in ``weight_ih`` of the next layer). To input ``i`` belongs its column in ``weight_ih_l0``.

    Args:
        module: The layer.
        side: ``"in"``: input channels, ``"out"``: hidden units.
        gates: Rows of each weight for one hidden unit.

    Returns:
        The views; the first of hidden units has a row for each.
    """
    suffixes = ["", "_reverse"] if module.bidirectional else [""]
    if side == "in":
        return [_columns(getattr(module, f"weight_ih_l0{suffix}")) for suffix in suffixes]
    found = []
    for number in range(module.num_layers):
        for suffix in suffixes:
            into = getattr(module, f"weight_ih_l{number}{suffix}")
            state = getattr(module, f"weight_hh_l{number}{suffix}")
            found += [_rows([into, state], gates), _columns(state)]
            if number:
                offsets = range(0, into.shape[1], module.hidden_size)
                found += [_columns(into, offset) for offset in offsets]
    return found


def _rows(weights: list[nn.Parameter], gates: int) -> LinearView:
    """All that computes each hidden unit, as one row."""

    def layout(tensors: list[Tensor]) -> Tensor:
        parts = [t.unflatten(0, (gates, -1)).transpose(0, 1).flatten(1) for t in tensors]
        return torch.cat(parts, 1)

    return LinearView(_LinearStandIn(weights, layout), "out")


def _columns(weight: nn.Parameter, offset: int = 0) -> LinearView:
    return LinearView(_LinearStandIn([weight], lambda tensors: tensors[0]), "in", offset)
