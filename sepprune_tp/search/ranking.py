"""Channels of all groups in one order, in steps of some width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..gates import GateGroup

__all__ = ["Ranking", "Steps", "check_steps", "smallest"]

Steps = int | Mapping[str, int]
"""Widths are multiples of this (or the full width): one for all groups, or by group name."""


class Ranking:
    """Bundles of channels (one step of one group each), the best first.

    Masks are given by how many bundles of each group stay: *counts* (G,), always the best of it.

    Attributes:
        group: Group number of each bundle after the least, best first, shape (B,).
        score: Score of each of them, mean of its channels, shape (B,), float64.
        least: Bundles of each group that stay in any case, shape (G,).
        full: Bundles of each group, shape (G,).
    """

    def __init__(
        self,
        groups: Sequence[GateGroup],
        scores: Tensor,
        steps: Steps = 1,
        floor: Tensor | None = None,
        ties: Tensor | None = None,
    ) -> None:
        """Rank by score, then by ``ties``, then by place.

        Args:
            groups: The groups; each keeps at least one step of channels.
            scores: Shape (N,).
            steps: Widths are multiples of this, or the full width.
            floor: Channels that stay in any case, shape (N,), bool.
            ties: Decides between equal scores, shape (N,), higher stays.

        Raises:
            InputError: If a step is below 1 or of an unknown group.
        """
        check_steps(groups, steps)
        scores = scores.detach().double().cpu()
        second = torch.zeros_like(scores) if ties is None else ties.detach().double().cpu()
        stays = torch.zeros(scores.numel(), dtype=torch.bool) if floor is None else floor.cpu()
        self._turn = torch.empty(scores.numel(), dtype=torch.long)  # of the channel's bundle
        self._group = torch.empty(scores.numel(), dtype=torch.long)
        self.least = torch.ones(len(groups), dtype=torch.long)
        self.full = torch.zeros(len(groups), dtype=torch.long)
        rows: list[tuple[float, float, int, int]] = []
        for number, group in enumerate(groups):
            own = torch.arange(group.start, group.start + group.size)
            for key in (second, scores, stays.double()):
                own = own[torch.argsort(key[own], descending=True, stable=True)]
            parts = own.split(_step_of(steps, group))
            for turn, part in enumerate(parts):
                self._turn[part], self._group[part] = turn, number
                if bool(stays[part].any()):
                    self.least[number] = turn + 1
                rows.append((float(scores[part].mean()), float(second[part].mean()), number, turn))
            self.full[number] = len(parts)
        free = [row for row in rows if row[3] >= self.least[row[2]]]
        free.sort(key=lambda row: (-row[0], -row[1], row[2], row[3]))
        self.group = torch.tensor([row[2] for row in free], dtype=torch.long)
        self.score = torch.tensor([row[0] for row in free], dtype=torch.float64)

    def keep(self, counts: Tensor) -> Tensor:
        """Masks (K, N), or (N,), of the bundles that stay in each group, (K, G) or (G,)."""
        return self._turn < counts[..., self._group]

    def prefix(self, length: int) -> Tensor:
        """Counts (G,) of the least and the best ``length`` bundles after them."""
        return self.least + torch.bincount(self.group[:length], minlength=len(self.least))

    def counts(self, keep: Tensor) -> Tensor:
        """Counts (G,) of masks (N,) that :meth:`keep` gave."""
        turns = torch.where(keep.cpu(), self._turn + 1, 0)
        return torch.zeros_like(self.least).scatter_reduce(0, self._group, turns, "amax")

    def scores_of(self, group: int) -> Tensor:
        """Scores of the bundles of a group after its least, the best first."""
        return self.score[self.group == group]


def smallest(groups: Sequence[GateGroup], steps: Steps = 1) -> Tensor:
    """The smallest masks, shape (N,): one step of channels in every group."""
    keep = torch.zeros(sum(g.size for g in groups), dtype=torch.bool)
    for group in groups:
        keep[group.start : group.start + min(group.size, _step_of(steps, group))] = True
    return keep


def _step_of(steps: Steps, group: GateGroup) -> int:
    return steps if isinstance(steps, int) else steps.get(group.name, 1)


def check_steps(groups: Sequence[GateGroup], steps: Steps) -> None:
    """Refuse steps of widths that are none.

    Raises:
        InputError: If a step is below 1 or of an unknown group.
    """
    given = {"every group": steps} if isinstance(steps, int) else dict(steps)
    for name, step in given.items():
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise InputError(f"steps of {name}: {step!r}; widths are multiples of 1 or more")
    if not isinstance(steps, int):
        unknown = sorted(set(steps) - {group.name for group in groups})
        if unknown:
            raise InputError(
                f"steps: no gated group is called {', '.join(map(repr, unknown))}; the groups are "
                f"{', '.join(group.name for group in groups)}"
            )
