"""Cut a group out of the model and keep the graph true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..architectures import sync_attributes
from ..errors import GraphError
from .assembly import ChannelSet, Owner
from .cuts import Cut, publish
from .group import ChannelGroup, surviving
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
    for (_, side), (item_dep, cut) in merged.items():
        if not cut:
            continue  # torch-pruning asks for empty groups where a ranking spares a layer
        _cut(graph, item_dep, side, sorted(cut))
    remaining = group.channel_set.root.members()
    left = [c for c in group.channel_set.components if c in remaining]
    group.channel_set.components = left
    tie_again(graph.shared)
    sync_attributes(graph.model)
    if record_history:
        is_out = graph.is_out_channel_pruning_fn(dep.trigger)
        graph.pruning_history().append([root_name, is_out, idxs])


def _cut(graph: ChannelGraph, dep: Any, side: str, idxs: list[int]) -> None:
    owner = dep.target.module
    name, flags = graph.name_of(owner), _flags(owner)
    dep.handler.__self__.pruning_dim = dep.target.pruning_dim
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
