"""What the caller does not want to be pruned: layers outside the scope and layers to be ignored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from ..layers.composite import parts_of
from .assembly import ChannelSet, Owner, Site
from .scope import host_of

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["off_limits", "with_parts"]


def off_limits(
    graph: ChannelGraph, channel_set: ChannelSet, inside: set[nn.Module] | None
) -> tuple[str, Site] | None:
    """Find what keeps channels from being pruned although they could be.

    Args:
        graph: The graph, for names and what is to be ignored.
        channel_set: The channels.
        inside: The modules in scope; None for all.

    Returns:
        Why, and the side of a layer that it is about; None if nothing does.
    """
    ignored = with_parts([*graph.IGNORED_LAYERS_IN_TRACING, *graph.ignored_params])
    for site in channel_set.sites:
        name = graph.name_of(site.owner)
        if site.side == "out" and site.owner in ignored:
            return f"'{name}' is to be ignored", site
        outside = inside is not None and host_of(site.owner, name, graph.model) not in inside
        if outside and not _read_only(graph, site):
            return f"it is tied to '{name}', outside the scope", site
    return None


def with_parts(owners: Iterable[Owner]) -> set[Owner]:
    """Owners, and the parts of those that have some."""
    chosen = list(owners)
    modules = [owner for owner in chosen if isinstance(owner, nn.Module)]
    return {*chosen, *(part for module in modules for part in parts_of(module).values())}


def _read_only(graph: ChannelGraph, site: Site) -> bool:
    """With a list of modules as scope, layers outside may read what is made inside."""
    if isinstance(graph.scope, str):
        return False
    return site.side == "in" or not graph.makes(site.owner)
