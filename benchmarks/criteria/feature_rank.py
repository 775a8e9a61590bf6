"""HRank: channels whose feature maps have a low rank carry little and go.

Source:
    Lin et al., "HRank: filter pruning using high-rank feature map", CVPR 2020, arXiv 2002.10179,
    equations 3 to 6: the importance of a channel is the mean rank of its map over a few inputs.

What is ours. The channels of a convolutional separator hold series, and the rank of a vector is 0
or 1: a series of T frames is folded into a square matrix, each row √T consecutive frames (so that
a low rank means that the rows repeat each other). Maps of dual-path networks, chunk by position in
the chunk, are matrices already and stay as they are. The paper looks at maps behind a ReLU, which
leaves zeros; separators have none, and at machine precision nearly every map has full rank. A
singular value therefore counts if it is above ``tolerance`` times the largest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.criteria.base import Batch, Chosen, Search
from benchmarks.criteria.gating import by_component, gates_of, sets_of
from benchmarks.criteria.memory import remembered
from benchmarks.criteria.options import positive, read
from benchmarks.criteria.ranking import at_one_rate, together
from sepprune_tp import GateSet
from sepprune_tp.layers import rule_of

__all__ = ["Options", "choose", "mean_ranks", "ranks"]


@dataclass(frozen=True)
class Options:
    """How to rank.

    Attributes:
        mixtures: Training mixtures whose maps are seen.
        tolerance: Singular values count above this share of the largest, in (0, 1).
        global_: Whether all channels are ranked together; else every group loses the same share.
    """

    mixtures: int = 16
    tolerance: float = 1e-2
    global_: bool = False

    def __post_init__(self) -> None:
        positive(mixtures=self.mixtures, tolerance=self.tolerance)


def choose(search: Search) -> Chosen:
    """Keep the channels whose feature maps have the highest mean rank."""
    options = read(Options, search.options)
    gates = gates_of(search)
    found = remembered(
        search,
        ("ranks", options.mixtures, options.tolerance),
        lambda: mean_ranks(gates, search.batches(options.mixtures, 1), options.tolerance),
    )
    if options.global_:
        return Chosen(together(gates, found, search.budget))
    masks, rate = at_one_rate(gates, found, search.budget)
    return Chosen(masks, {"rate": rate})


@torch.no_grad()
def mean_ranks(gates: GateSet, batches: Iterable[Batch], tolerance: float) -> Tensor:
    """Mean rank of the map of every gated channel, as its group's root layer makes it.

    Args:
        gates: Gates of the dense model.
        batches: Mixtures, one each.
        tolerance: Of :func:`ranks`.

    Returns:
        Shape (N,), float64.

    Raises:
        ValueError: If a batch holds several mixtures.
        RuntimeError: If the root of a group is no layer that runs.
    """
    totals: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    sets, device = sets_of(gates), next(gates.model.parameters()).device

    def watch(number: int, layer: nn.Module, args: Any, output: Any) -> None:
        rule = rule_of(layer)
        assert rule is not None, "a layer of the graph has a rule"
        y = rule.output(output)
        found = ranks(y.movedim(rule.axis(layer, y), 0), tolerance).double().cpu()
        column = torch.tensor(rule.output_index(layer))
        sums = torch.zeros(rule.n_out(layer), dtype=torch.float64).index_add(0, column, found)
        mean = sums / torch.bincount(column, minlength=len(sums)).clamp(min=1)
        totals[number] = totals.get(number, 0) + mean
        counts[number] = counts.get(number, 0) + 1

    with ExitStack() as stack:
        for number, one in enumerate(sets):
            if isinstance(one.root.owner, nn.Module):
                hook = one.root.owner.register_forward_hook(functools.partial(watch, number))
                stack.callback(hook.remove)
        for mixture, _ in batches:
            if len(mixture) != 1:
                raise ValueError(f"maps are of one mixture, the batch holds {len(mixture)}")
            gates.model(mixture.to(device))
    if missing := [g.name for i, g in enumerate(gates.groups) if i not in totals]:
        raise RuntimeError(f"no feature maps of {', '.join(missing)}: not layers that ran")
    parts = [by_component(totals[i] / counts[i], s.root, s.components) for i, s in enumerate(sets)]
    return torch.cat(parts)


def ranks(maps: Tensor, tolerance: float) -> Tensor:
    """Numerical rank of each channel's map.

    Args:
        maps: Shape (C, ...), of one mixture. Axes of length 1 do not count; one other axis is
            folded into a square (frames that are left over go), of several all but the last are
            taken together.
        tolerance: Share of the largest singular value above which one counts.

    Returns:
        Shape (C,), int64; 0 for a map of zeros.
    """
    sizes = [size for size in maps.shape[1:] if size > 1] or [1]
    if len(sizes) == 1:
        side = math.isqrt(sizes[0])
        matrices = maps.reshape(len(maps), -1)[:, : side * side].reshape(-1, side, side)
    else:
        matrices = maps.reshape(len(maps), -1, sizes[-1])
    values: Tensor = torch.linalg.svdvals(matrices.float())
    return (values > tolerance * values[:, :1]).sum(1)
