"""NormScale: channels that a normalisation scales down go.

Source:
    Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017,
    arXiv 1708.06519, section 3: |γ| of batch norm ranks all channels of a network together.

What differs: the norms are those that separators have (global, channel-wise, group and layer norm
as well as batch norm), and the model was trained without the L1 penalty on γ, as in torch-pruning's
``BNScaleImportance``. Like there, a group has the mean over its norms, and a group without any is
not pruned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.criteria.base import Chosen, Search, UnreachableError
from benchmarks.criteria.gating import by_component, gates_of, sets_of
from benchmarks.criteria.options import read
from benchmarks.criteria.ranking import at_one_rate, together
from sepprune_tp import GateSet
from sepprune_tp.graph.assembly import Site
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.norm import ChannelwiseRule

__all__ = ["Options", "choose", "scales"]


@dataclass(frozen=True)
class Options:
    """How to rank.

    Attributes:
        local: Whether every group with norms loses the same share; else all are ranked together.
    """

    local: bool = False


def choose(search: Search) -> Chosen:
    """Keep the channels with the largest |γ|.

    Raises:
        UnreachableError: If the groups without norms alone cost more than the budget.
    """
    options = read(Options, search.options)
    gates = gates_of(search)
    found = scales(gates)
    bare = found.isnan()
    without = [group.name for group in gates.groups if bool(bare[group.gates].any())]
    if len(without) == len(gates.groups):
        raise UnreachableError("no group has a norm with a gain for each channel")
    details = {"without norms": without}
    if not options.local:
        stays = bare if without else None
        masks = together(gates, found.nan_to_num(), search.budget, stays)
        return Chosen(masks, details)
    masks, rate = at_one_rate(gates, found.nan_to_num(), search.budget, bare)
    return Chosen(masks, {**details, "rate": rate})


def scales(gates: GateSet) -> Tensor:
    """Mean |γ| over the norms of each channel.

    Args:
        gates: Gates of the dense model.

    Returns:
        Shape (N,), float64; NaN for channels without a norm.
    """
    parts = []
    for one in sets_of(gates):
        rows = [
            by_component(gain, site, one.components)
            for site in one.sites
            if (gain := _gain(site)) is not None
        ]
        empty = torch.full((1, one.size), torch.nan, dtype=torch.float64)
        parts.append(torch.stack(rows).nanmean(0) if rows else empty[0])
    return torch.cat(parts)


def _gain(site: Site) -> Tensor | None:
    """|γ| of each channel (n,), if the site is a norm that has it."""
    layer = site.owner
    rule = rule_of(layer) if isinstance(layer, nn.Module) else None
    if not isinstance(rule, ChannelwiseRule) or rule.kind != "norm":
        return None
    gain = layer._parameters.get(rule.affine[0])  # type: ignore[union-attr]
    return None if gain is None else gain.detach().abs().flatten()
