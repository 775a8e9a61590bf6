"""Why channels go together, and why some may not go: facts first, and their text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from ..errors import InputError
from ..layers import rule_of
from ..layers.composite import hosts_in, named_layers, parts_of
from .assembly import ChannelSet, Owner, Site
from .forest import Forest, Meeting, Step, counted
from .slices import Slice, lost_slices, ranges

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["Explanation", "Meeting", "Part", "Step", "explain"]

_SHOWN = 10  # lines of each list in the text; the facts hold all


@dataclass(frozen=True)
class Part:
    """Channels of one side of a layer that share one fate.

    Attributes:
        side: ``in`` or ``out``.
        channels: Indices on that side of the layer.
        group: Name of the group's root layer; None for channels that no layer of the model makes.
        size: Number of channels of the whole group.
        reason: Why they may not go, or None if they may.
        slices: What goes with the channels, in every layer that shares them.
        meetings: Where the layers of the group met.
        path: From a channel of the layer to the one that is protected; empty if none is.
    """

    side: str
    channels: tuple[int, ...]
    group: str | None
    size: int
    reason: str | None
    slices: tuple[Slice, ...] = ()
    meetings: tuple[Meeting, ...] = ()
    path: tuple[Step, ...] = ()

    def lines(self) -> Iterator[str]:
        """The part as text, a line at a time."""
        which = {"in": "input", "out": "output"}[self.side]
        shown = f" {ranges(self.channels)}" if self.channels else ""
        if self.reason is None:
            yield f"{which} channels{shown}: group '{self.group}' of {counted(self.size)}, may go"
        else:
            yield f"{which} channels{shown}: may not go, because {self.reason}"
        if len(self.path) > 1:
            yield "  how it comes to that, for one channel:"
            yield from _shortened([f"    {line}" for line in self._path_lines()], 2 * _SHOWN)
        if self.slices:
            yield "  what goes together:"
            yield from _shortened([f"    {s}" for s in self.slices], 2 * _SHOWN)
        if self.meetings:
            yield "  where the layers met:"
            yield from _shortened([f"    {m}" for m in self.meetings], _SHOWN)

    def _path_lines(self) -> Iterator[str]:
        for number, step in enumerate(self.path):
            if number == 0:
                yield str(step)
            elif step.place is None:
                yield f"reads {step}"
            else:
                yield f"met {step} in {step.place}"


@dataclass(frozen=True)
class Explanation:
    """What becomes of a layer's channels, and why.

    Attributes:
        layer: Dotted name of the layer or bare parameter.
        parts: Its channels, by side and by what becomes of them.
    """

    layer: str
    parts: tuple[Part, ...]

    def part(self, channel: int, side: str = "out") -> Part:
        """The part that holds a channel.

        Raises:
            InputError: If the layer has no such channel.
        """
        for part in self.parts:
            if part.side == side and channel in part.channels:
                return part
        raise InputError(f"'{self.layer}' has no channel {channel} on its {side} side")

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.layer}", *(f"  {line}" for part in self.parts for line in part.lines())]
        )


def explain(graph: ChannelGraph, layer: Owner | str, side: str | None = None) -> Explanation:
    """Say which channels go with those of a layer, where they met, and what protects them.

    Args:
        graph: A built graph.
        layer: A layer, a bare parameter, or a dotted name of one.
        side: ``in`` or ``out``; both if None. Layers that keep channels apart have ``out`` only.

    Returns:
        The facts; as a string they are a text for the terminal.

    Raises:
        InputError: If there is no such layer or side, or the module has no channels of its own.
    """
    if side not in (None, "in", "out"):
        raise InputError(f"side is {side!r}; it must be 'in', 'out' or None for both")
    owner = _owner(graph, layer)
    name = graph.name_of(owner)
    sites = [s for s in graph.sites() if s.owner is owner and side in (None, s.side)]
    if not sites:
        return Explanation(name, (Part(side or "out", (), None, 0, _no_sites(graph, owner)),))
    forest = Forest(graph)
    return Explanation(name, tuple(p for site in sites for p in _parts(graph, site, forest)))


def _owner(graph: ChannelGraph, layer: Owner | str) -> Owner:
    """The layer or bare parameter that was asked for."""
    if isinstance(layer, str):
        modules = dict(named_layers(graph.model))
        parameters = dict(graph.model.named_parameters())
        found: Owner | None = modules.get(layer, parameters.get(layer))
        if found is None:
            close = [n for n in modules if n.endswith(layer.rpartition(".")[2])][:4]
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise InputError(f"the model has no layer or parameter '{layer}'{hint}")
        return found
    return layer


def _no_sites(graph: ChannelGraph, owner: Owner) -> str:
    """Why a part of the model has no channels in the graph.

    Raises:
        InputError: If it holds layers that do: those are what to ask for.
    """
    name = graph.name_of(owner)
    if isinstance(owner, nn.Parameter):
        return "it is part of a layer (ask for that), did not run, or met channels in no known way"
    if owner not in {module for _, module in named_layers(graph.model)}:
        raise InputError(f"{type(owner).__name__} is not part of the model of this graph")
    if owner in graph.refused:
        return graph.refused[owner]
    layers = {module for _, module in named_layers(owner)}
    inside = list(dict.fromkeys(graph.name_of(s.owner) for s in graph.sites() if s.owner in layers))
    if inside:
        more = f" and {len(inside) - 6} more" if len(inside) > 6 else ""
        raise InputError(
            f"'{name or type(owner).__name__}' has no channels of its own; ask for a layer in "
            f"it: {', '.join(inside[:6])}{more}"
        )
    if rule_of(owner) is None:
        return f"there is no rule for {type(owner).__name__}: it makes no channels that can go"
    return "it did not run on the example input"


def _parts(graph: ChannelGraph, site: Site, forest: Forest) -> Iterator[Part]:
    """The channels of one side, split by the channel set that they are in."""
    left = dict(site.positions())
    for number, channel_set in graph.sets_of(site.owner):
        components = [c for c in channel_set.components if c in left]
        if components:
            channels = sorted(i for c in components for i in left.pop(c))
            yield _part(graph, site, number, channel_set, components, channels, forest)
    for reason, components in _by_reason(graph, left).items():
        channels = sorted(i for c in components for i in left[c])
        path = forest.path(site, components[0], graph.channels.protector(components[0]))
        yield Part(site.side, tuple(channels), None, len(components), reason, path=path)
    unlabelled = (site.components == 0).nonzero().flatten().tolist()
    if unlabelled:
        why = "nothing in the model makes them: the values come from the input or a constant"
        yield Part(site.side, tuple(unlabelled), None, len(unlabelled), why)


def _by_reason(graph: ChannelGraph, components: Iterable[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for component in components:
        reason = graph.channels.reason(component) or "no layer of the model makes them"
        found.setdefault(reason, []).append(component)
    return found


def _part(
    graph: ChannelGraph,
    site: Site,
    number: int,
    channel_set: ChannelSet,
    components: list[int],
    channels: list[int],
    forest: Forest,
) -> Part:
    path = _path(graph, site, number, channel_set, components, forest)
    return Part(
        side=site.side,
        channels=tuple(channels),
        group=graph.name_of(channel_set.root.owner),
        size=channel_set.size,
        reason=graph.why_not(number),
        slices=tuple(_slices(graph, channel_set, components)),
        meetings=tuple(forest.meetings(set(components))),
        path=path,
    )


def _path(
    graph: ChannelGraph,
    site: Site,
    number: int,
    channel_set: ChannelSet,
    components: list[int],
    forest: Forest,
) -> tuple[Step, ...]:
    """From a channel of the layer (of the group, if it has none such) to what protects it."""
    held = graph.held_by(number)
    if held is not None:
        shared = [c for c in components if c in held.positions()]
        start = site if shared else channel_set.root
        component = next(c for c in (shared or channel_set.components) if c in held.positions())
        index = held.positions()[component][0]
        end = Step(graph.name_of(held.owner), index, None)
        return forest.path(start, component, int(held.labels[index]), end)
    for start, members in ((site, components), (channel_set.root, channel_set.components)):
        for component in members:
            target = graph.channels.protector(component)
            if target is not None:
                return forest.path(start, component, target)
    return ()


def _slices(graph: ChannelGraph, channel_set: ChannelSet, components: list[int]) -> list[Slice]:
    """What every layer that shares the components loses with them."""
    merged: dict[tuple[str, int], Slice] = {}
    for found in _slices_of_sites(graph, channel_set, components):
        known = merged.get((found.parameter, found.dim))
        if known is not None:
            found = replace(known, indices=tuple(sorted({*known.indices, *found.indices})))
        merged[found.parameter, found.dim] = found
    return list(merged.values())


def _slices_of_sites(
    graph: ChannelGraph, channel_set: ChannelSet, components: list[int]
) -> Iterator[Slice]:
    hosts = {
        part: (host, name)
        for host in hosts_in(graph.model.modules())
        for name, part in parts_of(host).items()
    }
    for site in channel_set.sites:
        positions, name = site.positions(), graph.name_of(site.owner)
        channels = [positions[c] for c in components if c in positions]
        if not channels:
            continue
        if isinstance(site.owner, nn.Parameter):
            indices = tuple(sorted(i for one in channels for i in one))
            dim = graph.node_of(site.owner).pruning_dim
            yield Slice(name, tuple(site.owner.shape), dim, indices)
        else:
            host, part = hosts.get(site.owner, (site.owner, None))
            cut = graph.function_of(site)
            yield from lost_slices(host, graph.name_of(host), cut, channels, part)


def _shortened(lines: list[str], most: int) -> list[str]:
    """The first lines, the last one, and how many are left out between."""
    if len(lines) <= most:
        return lines
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    return [*lines[: most - 2], f"{indent}... {len(lines) - most + 1} more ...", lines[-1]]
