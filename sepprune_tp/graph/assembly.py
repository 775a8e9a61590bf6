"""From labels to groups: which channels of which layers form one prunable group.

Channels that were united are one *component*: they stay or go together. A *group* gathers the
components of a root layer, all of whose output channels it holds: the unit that torch-pruning
scores and cuts, and that carries one gate a component.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..layers import LayerRule
from .labels import Channels
from .tracing import Sites

__all__ = ["ChannelSet", "Owner", "Site", "assemble", "resolve"]

Owner = nn.Module | nn.Parameter


@dataclass
class Site:
    """One side of one layer, with the component of each of its channels.

    Attributes:
        owner: The layer, or a bare parameter.
        side: ``in`` or ``out`` (a layer that keeps channels apart has ``out`` only).
        components: Component of each channel, shape (n,), int64; 0: none.
        labels: The label that stood at each channel in the trace, shape (n,), int64.
        consumes: Whether a gate in this layer closes its channels (it reads them).
        rule: The rule of the layer; None for a bare parameter.
    """

    owner: Owner
    side: str
    components: Tensor
    labels: Tensor
    consumes: bool = False
    rule: LayerRule | None = None
    _members: tuple[Tensor, dict[int, int]] | None = field(default=None, repr=False, compare=False)
    _positions: tuple[Tensor, dict[int, list[int]]] | None = field(
        default=None, repr=False, compare=False
    )

    def members(self) -> dict[int, int]:
        """The components, in order of their first channel, each with the index of that channel."""
        if self._members is None or self._members[0] is not self.components:
            found: dict[int, int] = {}
            for index, component in enumerate(self.components.tolist()):
                found.setdefault(component, index)
            found.pop(0, None)
            self._members = (self.components, found)
        return self._members[1]

    def positions(self) -> dict[int, list[int]]:
        """Indices of the channels of each component, in order of their first channel."""
        if self._positions is None or self._positions[0] is not self.components:
            found: dict[int, list[int]] = {}
            for index, component in enumerate(self.components.tolist()):
                if component:
                    found.setdefault(component, []).append(index)
            self._positions = (self.components, found)
        return self._positions[1]

    def where(self, members: Iterable[int]) -> Tensor:
        """Indices of the channels that belong to the given components."""
        positions = self.positions()
        chosen = [i for component in set(members) for i in positions.get(component, ())]
        return torch.tensor(sorted(chosen), dtype=torch.long)

    def count(self, going: set[int], grouped: bool = False) -> int:
        """Channels that are left without some components; or components, if ``grouped``."""
        if grouped:
            return len(self.members().keys() - going)
        return sum(1 for c in self.components.tolist() if c not in going)

    def cut(self, kept: Tensor) -> None:
        """Keep only the channels at some indices."""
        self.components, self.labels = self.components[kept], self.labels[kept]


@dataclass
class ChannelSet:
    """The components of one group.

    Attributes:
        root: The site whose channels stand for the group's; every component is among them.
        components: In the order of their first channel in the root.
        sites: Every site that holds at least one of the components, root first.
        reason: Why the group may not be pruned, or None.
        ungated: Why the group may be pruned but have no gates, or None.
    """

    root: Site
    components: list[int]
    sites: list[Site]
    reason: str | None = None
    ungated: str | None = None

    @property
    def size(self) -> int:
        """Number of channels (components)."""
        return len(self.components)

    def tied_parts(self, owner: Owner) -> int:
        """How many equal parts of a root layer's outputs are tied (1: each channel is free)."""
        if self.root.owner is not owner or not self.size:
            return 1
        parts, left = divmod(self.root.components.numel(), self.size)
        if left or parts == 1:
            return 1
        several = self.root.components.view(parts, self.size)
        return parts if bool((several == several[0]).all()) else 1


def resolve(traced: dict[Owner, Sites], channels: Channels) -> list[Site]:
    """Replace labels by components, in order of execution."""
    roots = channels.roots()
    sites = []
    for owner, labels in traced.items():
        for side, values in (("in", labels.inputs), ("out", labels.outputs)):
            if values is not None:
                consumes = _consumes(owner, labels, side)
                sites.append(Site(owner, side, roots[values], values, consumes, labels.rule))
    return sites


def _consumes(owner: Owner, sites: Sites, side: str) -> bool:
    if side == "in":
        return True
    rule = sites.rule
    if rule is None or rule.relation != "through" or isinstance(owner, nn.Parameter):
        return False
    return rule.consumes(owner)


def assemble(sites: list[Site], channels: Channels, through: set[Owner]) -> list[ChannelSet]:
    """Form groups from the sites that a trace left.

    Args:
        sites: Every side of every layer, see :func:`resolve`.
        channels: The united channels.
        through: Owners that keep channels apart and so make none of their own.

    Returns:
        Every group, also those that may not be pruned (with the reason).
    """
    holders: dict[int, list[Site]] = {}
    for site in sites:
        for component in site.members():
            holders.setdefault(component, []).append(site)
    makers = [s for s in sites if s.side == "out" and s.owner not in through]
    consumed = {channels.find(label) for label in channels.consumed}
    done: set[int] = {0}
    groups = []
    for maker in makers:
        if not maker.members().keys() <= done:
            family = _family(maker, holders, through)
            while not maker.members().keys() <= done:
                group = _group(family, done, holders, channels, consumed)
                done.update(group.components)
                groups.append(group)
    return groups


def _family(start: Site, holders: dict[int, list[Site]], through: set[Owner]) -> list[Site]:
    """All makers that are linked to ``start`` by shared components."""
    family, queue, seen = {id(start): start}, [start], set[int]()
    while queue:
        for component in queue.pop().members().keys() - seen:
            seen.add(component)
            for other in holders.get(component, []):
                if other.side == "out" and other.owner not in through and id(other) not in family:
                    family[id(other)] = other
                    queue.append(other)
    return list(family.values())


def _group(
    family: list[Site],
    done: set[int],
    holders: dict[int, list[Site]],
    channels: Channels,
    consumed: set[int],
) -> ChannelSet:
    """The group of the maker with the most components left, one channel each if possible."""

    def rank(site: Site) -> tuple[int, bool]:
        members = site.members().keys()
        return len(members - done), len(members) == site.components.numel()

    root = max(family, key=rank)
    ordered = list(root.members())
    members = [c for c in ordered if c not in done]
    sites = {id(root): root}
    for component in members:
        for site in holders[component]:
            sites[id(site)] = site
    group = ChannelSet(root, members, list(sites.values()))
    group.ungated = next(filter(None, map(channels.ungated, members)), None)
    group.reason = _why_not(group, ordered, channels, consumed)
    return group


def _why_not(
    group: ChannelSet, ordered: list[int], channels: Channels, consumed: set[int]
) -> str | None:
    for component in group.components:
        reason = channels.reason(component)
        if reason is not None:
            return reason
    if len(group.components) < len(ordered):
        return "part of its channels belongs to another group"
    if group.size == 1:
        single = group.root.components.numel() == 1
        return "it is a single channel" if single else "all of its channels are coupled into one"
    read = any(component in consumed for component in group.components)
    if group.ungated is None and not read and not any(site.consumes for site in group.sites):
        return "no layer with weights reads its channels"
    members = set(group.components)
    for site in group.sites:
        used = site.members()
        if len(used) < 2 and used.keys() <= members:
            return "it would leave a layer without channels"
    return None
