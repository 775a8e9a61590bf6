"""Times of many layers at once, interpolated between measured widths and differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .layers import ALIGNED, knots

__all__ = ["TimeTable"]

_KNOTS = 8  # of either kind at most
_KINDS = 2  # multiples of 8, and other widths


class TimeTable:
    """Piecewise linear in the width of either side, rising, apart for aligned and other widths.

    Args:
        widths: Dense inputs and outputs of each layer (L, 2); both ones of a layer that keeps
            channels apart are the same.
        ties: Multiples that inputs and outputs have to be of.
        through: Whether a layer keeps its channels apart.
        seconds: Time of a layer, by number, for some inputs and outputs.
        steep: Whether the time of a layer goes in steps of its outputs, as recurrent ones do.
    """

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        ties: Sequence[tuple[int, int]],
        through: Sequence[bool],
        seconds: Callable[[int, int, int], float],
        steep: Sequence[bool] | None = None,
    ) -> None:
        points, values = [], []
        for layer, ((n_in, n_out), (t_in, t_out)) in enumerate(zip(widths, ties, strict=True)):
            fine = bool(steep and steep[layer])
            inputs = _few(n_in, t_in) if fine else knots(n_in, t_in)
            sides = [_padded(inputs), _padded(knots(n_out, t_out, fine))]
            points.append(sides)
            values.append(
                [
                    [
                        _grid(layer, sides[0][i], sides[1][o], through[layer], seconds)
                        for o in (0, 1)
                    ]
                    for i in (0, 1)
                ]
            )
        self._points = torch.tensor(points, dtype=torch.float64)  # (L, side, kind, G)
        self._values = torch.tensor(values, dtype=torch.float64)  # (L, kind, kind, G, G)

    def exact(self, counts: Tensor) -> Tensor:
        """Seconds of each layer for whole widths.

        Args:
            counts: Inputs and outputs, shape (K, L, 2).

        Returns:
            Shape (K, L), float64.
        """
        kind = (counts % ALIGNED != 0).long()
        return self._look_up(counts, kind[..., 0], kind[..., 1])

    def expected(self, counts: Tensor) -> Tensor:
        """The same for widths between whole ones: the mean of both kinds; differentiable."""
        found = [
            self._look_up(counts, torch.full_like(counts[..., 0], a).long(), o)
            for a in range(_KINDS)
            for o in (torch.full_like(counts[..., 0], b).long() for b in range(_KINDS))
        ]
        return torch.stack(found).mean(0)

    def _look_up(self, counts: Tensor, kind_in: Tensor, kind_out: Tensor) -> Tensor:
        layers = torch.arange(counts.shape[1], device=counts.device).expand(counts.shape[:2])
        i, share_i = self._place(counts[..., 0], layers, 0, kind_in)
        o, share_o = self._place(counts[..., 1], layers, 1, kind_out)
        values = self._values.to(counts.device)[layers, kind_in, kind_out]  # (K, L, G, G)

        def at(a: Tensor, b: Tensor) -> Tensor:
            rows = values.gather(2, a[..., None, None].expand(*a.shape, 1, values.shape[-1]))
            return rows[..., 0, :].gather(2, b[..., None])[..., 0]

        low = at(i, o) * (1 - share_o) + at(i, o + 1) * share_o
        high = at(i + 1, o) * (1 - share_o) + at(i + 1, o + 1) * share_o
        return low * (1 - share_i) + high * share_i

    def _place(self, n: Tensor, layers: Tensor, side: int, kind: Tensor) -> tuple[Tensor, Tensor]:
        """The knot below and how far it is to the next one, 0 to 1."""
        points = self._points.to(n.device)[layers, side, kind]  # (K, L, G)
        index = (n.detach()[..., None] >= points[..., 1:-1]).sum(-1)
        low = points.gather(2, index[..., None])[..., 0]
        high = points.gather(2, index[..., None] + 1)[..., 0]
        share = (n - low) / (high - low).clamp(min=1)
        return index, share.clamp(0, 1)


def _few(width: int, parts: int) -> tuple[list[int], list[int]]:
    """Three widths for both kinds: what a recurrent layer reads goes into one plain product."""
    side = sorted({max(parts, width * n // 4 // parts * parts) for n in (1, 2)} | {width})
    return side, side


def _padded(kinds: tuple[list[int], list[int]]) -> list[list[int]]:
    """Widths of both kinds, the last one repeated until all layers have as many."""
    return [side + side[-1:] * (_KNOTS - len(side)) for side in kinds]


def _grid(
    layer: int,
    ins: list[int],
    outs: list[int],
    through: bool,
    seconds: Callable[[int, int, int], float],
) -> list[list[float]]:
    """Times at all pairs of widths, made to rise along both sides."""
    if through:
        row = torch.tensor([seconds(layer, n, n) for n in outs], dtype=torch.float64)
        rows = row.expand(len(ins), -1)
    else:
        rows = torch.tensor([[seconds(layer, i, o) for o in outs] for i in ins]).double()
    rising: list[list[float]] = rows.cummax(1).values.cummax(0).values.tolist()
    return rising
