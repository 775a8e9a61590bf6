"""Find the groups of channels that a user named by layer and index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GraphError
from .assembly import ChannelSet, Owner
from .group import ChannelGroup, GroupUnion, build_group

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["group_of_channels", "keeps_a_channel"]


def group_of_channels(
    graph: ChannelGraph, owner: Owner, side: str, idxs: Sequence[int]
) -> ChannelGroup | GroupUnion:
    """The group that removes channels of one side of a layer.

    Args:
        graph: The graph.
        owner: The layer or bare parameter.
        side: ``in`` or ``out``.
        idxs: Channel indices of that side; none: a group that removes nothing.

    Returns:
        One group, or the union of those that the channels are of.

    Raises:
        GraphError: If one of the channels is protected, or of no group.
    """
    parts: list[tuple[ChannelSet, list[int]]] = []
    missing: set[int] = set()
    for number, channel_set in graph.sets_of(owner):
        for site in channel_set.sites:
            if site.owner is not owner or (site.side != side and graph.makes(owner)):
                continue
            wanted = {c for c in site.components[list(idxs)].tolist() if c}
            members = [c for c in channel_set.components if c in wanted]
            if not members and idxs:
                continue
            why = graph.why_not(number)
            if why is not None:
                raise GraphError(
                    f"channels {list(idxs[:8])} of '{graph.name_of(owner)}' may not go: {why}"
                )
            missing = (missing if parts else wanted) - set(members)
            parts.append((channel_set, members))
            if not missing:
                several = len(parts) > 1
                return GroupUnion(graph, parts) if several else build_group(graph, *parts[0])
    raise GraphError(
        f"'{graph.name_of(owner)}' has no channels {list(idxs[:8])} on its {side} side that can go"
        + (", not all of them" if parts else "")
    )


def keeps_a_channel(graph: ChannelGraph, group: ChannelGroup | GroupUnion) -> bool:
    """Whether something is left of every set that a group removes channels of."""
    if isinstance(group, GroupUnion):
        return all(len(members) < channel_set.size for channel_set, members in group.parts)
    chosen = {c for item in group for c in _components(graph, group, item)}
    some = len(chosen) < group.channel_set.size
    return some and all(site.members().keys() - chosen for site in group.channel_set.sites)


def _components(graph: ChannelGraph, group: ChannelGroup, item: Any) -> list[int]:
    owner, side = item.dep.target.module, graph.side_of(item.dep)
    for site in group.channel_set.sites:
        if site.owner is owner and site.side == side:
            found: list[int] = site.components[item.idxs].tolist()
            return found
    return []
