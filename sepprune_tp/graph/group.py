"""A torch-pruning group made from channel labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning._helpers import GroupItem
from torch_pruning.dependency import Dependency, Node

from ..errors import GraphError
from .assembly import ChannelSet, Site

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["ChannelGroup", "GroupUnion", "build_group"]


class ChannelGroup(tp.Group):
    """An ordinary ``tp.Group`` whose items hold at most one index for each channel of the root.

    A layer that reads one channel in several places (both directions of an RNN, the masks of
    several sources) has several items; :meth:`prune` cuts them at once.

    Attributes:
        channel_set: The components behind the group.
    """

    def __init__(self, graph: ChannelGraph, channel_set: ChannelSet) -> None:
        super().__init__()
        self._DG = graph
        self.channel_set = channel_set

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Remove channels from every layer of the group.

        Args:
            idxs: Channels of the root layer to remove; default: those of the group.
            record_history: Whether the graph remembers this for ``pruning_history``.
        """
        if idxs is not None:
            dep = self[0].dep
            module, function = dep.target.module, dep.handler
            self._DG.get_pruning_group(module, function, list(idxs)).prune()
            return
        self._DG.apply(self, record_history)


class GroupUnion(tp.Group):
    """What :meth:`ChannelGraph.get_pruning_group` gives for channels of several groups at once.

    Attributes:
        parts: Each group's channel set with the components of it that go.
    """

    def __init__(
        self, graph: ChannelGraph, parts: Sequence[tuple[ChannelSet, Sequence[int]]]
    ) -> None:
        super().__init__()
        self._DG, self.parts = graph, parts
        for channel_set, members in parts:
            self._group.extend(build_group(graph, channel_set, members).items)

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Remove the channels, group by group.

        Args:
            idxs: Must be None: the channels were chosen when the union was made.
            record_history: Whether the graph remembers this for ``pruning_history``.

        Raises:
            GraphError: If ``idxs`` is given.
        """
        if idxs is not None:
            raise GraphError("these channels are of several groups: make a new group for others")
        for channel_set, members in self.parts:  # built again: indices move with each cut
            build_group(self._DG, channel_set, members).prune(record_history=record_history)


def build_group(
    graph: ChannelGraph, channel_set: ChannelSet, components: Sequence[int]
) -> ChannelGroup:
    """Make the group that removes some components of a channel set.

    Args:
        graph: The graph, for nodes and pruning functions.
        channel_set: The set.
        components: Which of its components; all for scoring.

    Returns:
        The group: root first, then sites that hold every channel, then the rest.
    """
    group = ChannelGroup(graph, channel_set)
    root = channel_set.root
    first = root.members()
    order = {c: first[c] for c in components}
    root_node = graph.node_of(root.owner)
    trigger = graph.function_of(root)
    items: list[Any] = []
    for site in channel_set.sites:
        function = graph.function_of(site)
        node = graph.node_of(site.owner)
        for idxs, root_idxs in _layers_of_indices(site, order, site is root):
            dep = Dependency(trigger, function, source=root_node, target=node)
            item = GroupItem(dep, idxs)
            item.root_idxs = root_idxs
            items.append(item)
    head, tail = items[:1], items[1:]
    tail.sort(key=lambda item: -len(item.idxs))  # stable: the first scored item must be complete
    for item in head + tail:
        group._group.append(item)
    return group


def _layers_of_indices(
    site: Site, order: dict[int, int], is_root: bool
) -> list[tuple[list[int], list[int]]]:
    """Split the indices of a site so that each part holds a channel once, sorted by index."""
    if is_root:
        idxs = site.where(order).tolist()
        return [(idxs, list(idxs))]
    positions = site.positions()
    parts: list[list[tuple[int, int]]] = []
    for component in order.keys() & positions.keys():
        for turn, index in enumerate(positions[component]):
            if turn == len(parts):
                parts.append([])
            parts[turn].append((index, order[component]))
    for part in parts:
        part.sort()
    return [([i for i, _ in part], [r for _, r in part]) for part in parts]


def parameter_node(parameter: nn.Parameter, name: str, dim: int) -> Any:
    """A torch-pruning node for a bare parameter that is cut along ``dim``."""
    node = Node(parameter, None, name)
    node.pruning_dim = dim
    return node


def surviving(size: int, removed: Sequence[int]) -> torch.Tensor:
    """Indices that stay when ``removed`` go."""
    keep = torch.ones(size, dtype=torch.bool)
    keep[list(removed)] = False
    return keep.nonzero().flatten()
