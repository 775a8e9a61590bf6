"""Cut a group out of the model and keep the graph true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..architectures import sync_attributes
from ..errors import GraphError
from ..layers import rule_of
from .assembly import ChannelSet, Owner
from .cuts import Cut, publish
from .group import ChannelGroup, surviving
from .lineage import Lineage, lineage_of, set_lineage
from .sharing import tie_again

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["cut_group"]


def cut_group(graph: ChannelGraph, group: ChannelGroup, record_history: bool = True) -> None:
    """Cut a group out of the model and keep the graph true.

    Args:
        graph: The graph that made the group.
        group: The group.
        record_history: Whether :meth:`pruning_history` remembers it.

    Raises:
        GraphError: If the model changed since the graph was built.
    """
    _check_fresh(graph, group.channel_set)
    dep, idxs = group[0].dep, list(group[0].idxs)
    root_name = graph.name_of(dep.target.module)
    merged: dict[tuple[int, str], tuple[Any, list[int]]] = {}
    for item in group:
        key = (id(item.dep.target.module), graph.side_of(item.dep))
        merged.setdefault(key, (item.dep, []))[1].extend(item.idxs)
    cuts = [(dep, side, sorted(cut)) for (_, side), (dep, cut) in merged.items() if cut]
    if cuts:  # torch-pruning asks for empty groups where a ranking spares a layer
        _remember(graph, root_name, cuts)
    for item_dep, side, cut in cuts:
        _cut(graph, item_dep, side, cut)
    remaining = group.channel_set.root.members()
    left = [c for c in group.channel_set.components if c in remaining]
    group.channel_set.components = left
    tie_again(graph.shared)
    sync_attributes(graph.model)
    graph.follow_widths()
    if record_history:
        is_out = graph.is_out_channel_pruning_fn(dep.trigger)
        graph.pruning_history().append([root_name, is_out, idxs])


def _remember(graph: ChannelGraph, root_name: str, cuts: list[tuple[Any, str, list[int]]]) -> None:
    """Note in the model's lineage which channels of the group go."""
    lineage = lineage_of(graph.model)
    if lineage is None:
        set_lineage(graph.model, lineage := Lineage.begin(graph.model))
    outputs = {}
    for dep, side, gone in cuts:
        owner = dep.target.module
        name = graph.name_of(owner)
        if side == "out":
            outputs[name] = (graph.site_of(owner, side).components.numel(), gone)
        rule = (
            None if isinstance(owner, nn.Parameter) else (graph.rules.get(owner) or rule_of(owner))
        )
        if rule is not None and rule.kind == "norm" and rule.pools_channels(owner):
            lineage.pooling = sorted({*lineage.pooling, name})
    lineage.group_cut(root_name, outputs)


def _cut(graph: ChannelGraph, dep: Any, side: str, idxs: list[int]) -> None:
    owner = dep.target.module
    name, flags = graph.name_of(owner), _flags(owner)
    dep.handler.__self__.pruning_dim = dep.target.pruning_dim
    if (lineage := lineage_of(graph.model)) is not None:
        lineage.cut(owner, name, dep.handler, idxs, dep.target.pruning_dim)
    result = dep.handler(owner, idxs)
    if isinstance(owner, nn.Parameter):
        graph.replace_parameter(owner, result)
    else:
        _restore_flags(owner, flags)
    site = graph.site_of(owner if not isinstance(owner, nn.Parameter) else result, side)
    site.cut(surviving(site.components.numel(), idxs))
    publish(graph.model, Cut(name, side, idxs))


def _check_fresh(graph: ChannelGraph, channel_set: ChannelSet) -> None:
    for site in channel_set.sites:
        if isinstance(site.owner, nn.Parameter):
            continue
        pruner = graph.plain_pruner(site.owner)
        count = pruner.get_out_channels if site.side == "out" else pruner.get_in_channels
        try:
            present = count(site.owner)
        except AttributeError:  # a user's pruner that does not count
            continue
        if present is not None and present != site.components.numel():
            raise GraphError(
                f"'{graph.name_of(site.owner)}' has {present} channels, the graph knows "
                f"{site.components.numel()}: the model was changed outside the graph. Build a "
                "new graph."
            )


def _flags(owner: Owner) -> dict[str, bool]:
    if isinstance(owner, nn.Parameter):
        return {}
    return {name: p.requires_grad for name, p in owner.named_parameters()}


def _restore_flags(owner: nn.Module, flags: dict[str, bool]) -> None:
    for name, parameter in owner.named_parameters():
        parameter.requires_grad_(flags.get(name, True))
