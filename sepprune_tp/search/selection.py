"""From scores to hard masks that meet limits from below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..gates import GateGroup
from .limits import Limits

__all__ = ["Steps", "select", "smallest"]

Steps = int | Mapping[str, int]
"""Widths are multiples of this (or the full width): one for all groups, or by group name."""


def smallest(groups: Sequence[GateGroup], steps: Steps = 1) -> Tensor:
    """The smallest masks, shape (N,): one step of channels in every group."""
    keep = torch.zeros(sum(g.size for g in groups), dtype=torch.bool)
    for group in groups:
        keep[group.start : group.start + min(group.size, _step_of(steps, group))] = True
    return keep


def select(
    groups: Sequence[GateGroup],
    scores: Tensor,
    limits: Limits,
    *,
    steps: Steps = 1,
    floor: Tensor | None = None,
    ties: Tensor | None = None,
) -> Tensor:
    """The masks that keep the highest scores and meet the limits from below.

    Channels are taken in order of score, first the best of each group, until the next would exceed
    a limit; then channels further down that still fit are added.

    Args:
        groups: The groups; each keeps at least one step of channels.
        scores: Shape (N,).
        limits: The bounds.
        steps: Widths are multiples of this, or the full width: one number for all groups, or by
            group name (1 for those left out).
        floor: Channels that stay in any case, shape (N,), bool; e.g. those of a smaller budget.
        ties: Decides between equal scores, shape (N,), higher stays.

    Returns:
        True where a channel stays, shape (N,), bool.

    Raises:
        BudgetError: If not even the fewest channels fit.
        InputError: If a step is below 1 or of an unknown group.
    """
    _check(groups, steps)
    limits.check_reachable(smallest(groups, steps), len(groups))
    order = _order(groups, scores, ties, steps, floor)
    low, high = order.forced, len(order.group)  # the first low bundles fit
    while low < high:
        middle = (low + high + 1) // 2
        if limits.met_by(order.keep(torch.arange(len(order.group)) < middle)):
            low = middle
        else:
            high = middle - 1
    return order.keep(_filled(order, low, limits))


@dataclass(frozen=True)
class _Order:
    """Bundles of channels (one step of one group each), the best first.

    Attributes:
        of_channel: Bundle of each channel, shape (N,).
        group: Group number of each bundle.
        forced: How many of the first stay in any case.
    """

    of_channel: Tensor
    group: list[int]
    forced: int

    def keep(self, taken: Tensor) -> Tensor:
        """Masks (N,) of the bundles that are taken (B,)."""
        return taken[self.of_channel]


def _order(
    groups: Sequence[GateGroup],
    scores: Tensor,
    ties: Tensor | None,
    steps: Steps,
    floor: Tensor | None,
) -> _Order:
    """Rank bundles by mean score, then mean tie-breaker, then place; forced ones first."""
    scores = scores.detach().double().cpu()
    second = torch.zeros_like(scores) if ties is None else ties.detach().double().cpu()
    bundle = torch.empty(scores.numel(), dtype=torch.long)
    rows: list[tuple[bool, float, float, int]] = []
    for number, group in enumerate(groups):
        step = _step_of(steps, group)
        own = torch.arange(group.start, group.start + group.size)
        own = own[torch.argsort(second[own], descending=True, stable=True)]
        own = own[torch.argsort(scores[own], descending=True, stable=True)]
        for turn, part in enumerate(own.split(step)):
            bundle[part] = len(rows)
            forced = turn == 0 or (floor is not None and bool(floor[part].any()))
            rows.append((forced, float(scores[part].mean()), float(second[part].mean()), number))
    ranked = sorted(range(len(rows)), key=lambda i: (not rows[i][0], -rows[i][1], -rows[i][2], i))
    place = torch.empty(len(rows), dtype=torch.long)
    place[torch.tensor(ranked)] = torch.arange(len(rows))
    return _Order(place[bundle], [rows[i][3] for i in ranked], sum(row[0] for row in rows))


def _filled(order: _Order, low: int, limits: Limits) -> Tensor:
    """Add bundles in order of score where they still fit; one failure settles its group."""
    taken = torch.arange(len(order.group)) < low
    full: set[int] = set()
    for index in range(low, len(order.group)):
        group = order.group[index]
        if group in full:
            continue
        taken[index] = True
        if not limits.met_by(order.keep(taken)):
            taken[index] = False
            full.add(group)
    return taken


def _step_of(steps: Steps, group: GateGroup) -> int:
    return steps if isinstance(steps, int) else steps.get(group.name, 1)


def _check(groups: Sequence[GateGroup], steps: Steps) -> None:
    given = {"steps": steps} if isinstance(steps, int) else dict(steps)
    for name, step in given.items():
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise InputError(f"steps: {name} is {step!r}; a width is a multiple of 1 or more")
    if not isinstance(steps, int):
        unknown = sorted(set(steps) - {group.name for group in groups})
        if unknown:
            raise InputError(
                f"steps: no gated group is called {', '.join(map(repr, unknown))}; the groups are "
                f"{', '.join(group.name for group in groups)}"
            )
