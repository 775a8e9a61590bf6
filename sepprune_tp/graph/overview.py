"""All groups of a graph and everything that is protected, as one table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ..layers import rule_of
from .assembly import ChannelSet, Owner

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["GroupRow", "ProtectedRow", "Report", "report"]

_NAMES = 3  # layers of a group that are named in the text


@dataclass(frozen=True)
class GroupRow:
    """A group that may be pruned.

    Attributes:
        name: Dotted name of its root layer.
        channels: Number of channels.
        layers: Every layer and bare parameter that loses something with them.
        params: Parameters that go if all of its channels go. One that lies in a row of one group
            and a column of another counts in both.
    """

    name: str
    channels: int
    layers: tuple[str, ...]
    params: int


@dataclass(frozen=True)
class ProtectedRow:
    """Output channels that may not be pruned.

    Attributes:
        layer: Dotted name of the layer that makes them.
        channels: How many of its output channels are protected.
        reason: Why.
    """

    layer: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Report:
    """A whole graph in figures.

    Attributes:
        model: Class name.
        groups: What may be pruned, in order of execution.
        protected: What may not.
        params: Parameters of the model.
        prunable_params: Those that at least one channel that may go takes along.
        unproved: Why gated and cut model were not compared by value; None if they were.
    """

    model: str
    groups: tuple[GroupRow, ...]
    protected: tuple[ProtectedRow, ...]
    params: int
    prunable_params: int
    unproved: str | None = None

    @property
    def share(self) -> float:
        """Share of the parameters that can be pruned, 0 to 1."""
        return self.prunable_params / self.params if self.params else 0.0

    def __str__(self) -> str:
        channels = sum(row.channels for row in self.groups)
        lines = [
            f"{self.model}: {len(self.groups)} groups with {channels:,} channels; "
            f"{self.share:.1%} of {self.params:,} parameters can be pruned"
        ]
        if self.groups:
            width = max(5, *(len(row.name) for row in self.groups))
            lines.append(f"  {'group':<{width}} {'channels':>9} {'params':>12}  layers")
            for row in self.groups:
                lines.append(
                    f"  {row.name:<{width}} {row.channels:>9,} {row.params:>12,}  "
                    f"{_named(row.layers)}"
                )
        if self.unproved is not None:
            lines.append(f"  nothing was proved by value: {self.unproved}")
        if self.protected:
            lines.append("  may not be pruned:")
            lines.extend(self._protected_lines())
        return "\n".join(lines)

    def _protected_lines(self) -> Iterator[str]:
        by_reason: dict[str, list[ProtectedRow]] = {}
        for row in self.protected:
            by_reason.setdefault(row.reason, []).append(row)
        for reason, rows in by_reason.items():
            names = _named(tuple(f"{row.layer} ({row.channels})" for row in rows))
            yield f"    {names}: {reason}"


def report(graph: ChannelGraph) -> Report:
    """Put a graph in figures.

    Args:
        graph: A built graph.

    Returns:
        Its groups, what is protected, and the share of the parameters that can be pruned.
    """
    sets = graph.prunable_sets()
    params = sum(p.numel() for p in graph.model.parameters())
    rows = tuple(
        GroupRow(
            graph.name_of(channel_set.root.owner),
            channel_set.size,
            tuple(dict.fromkeys(graph.name_of(site.owner) for site in channel_set.sites)),
            _covered(graph, [channel_set]),
        )
        for channel_set in sets
    )
    protected = tuple(_protected(graph))
    covered = min(params, _covered(graph, sets))
    unproved = graph.tried.skipped
    return Report(type(graph.model).__name__, rows, protected, params, covered, unproved)


def _covered(graph: ChannelGraph, sets: list[ChannelSet]) -> int:
    """Parameters that go with all channels of some sets, each counted once."""
    members = {component for channel_set in sets for component in channel_set.components}
    going: dict[Owner, dict[str, int]] = {}
    sites = {id(site): site for channel_set in sets for site in channel_set.sites}
    for site in sites.values():
        positions = site.positions()
        gone = sum(len(positions[c]) for c in members & positions.keys())
        going.setdefault(site.owner, {})[site.side] = gone
    return sum(_params_gone(graph, owner, gone) for owner, gone in going.items())


def _params_gone(graph: ChannelGraph, owner: Owner, gone: dict[str, int]) -> int:
    """Parameters of one layer that go with some of its input and output channels."""
    if isinstance(owner, nn.Parameter):
        return owner.numel() // graph.site_of(owner, "out").components.numel() * gone["out"]
    rule = graph.rules.get(owner) or rule_of(owner)
    assert rule is not None, "a site of the graph has a rule"
    if rule.relation == "through":
        gone = {"in": gone["out"], "out": gone["out"]}
    n_in, n_out = rule.n_in(owner), rule.n_out(owner)
    left = rule.params(owner, n_in - gone.get("in", 0), n_out - gone.get("out", 0))
    return rule.params(owner, n_in, n_out) - left


def _protected(graph: ChannelGraph) -> Iterator[ProtectedRow]:
    """Layers in order of execution; one with several reasons has a row for each."""
    for site in graph.sites():
        if site.side != "out" or not graph.makes(site.owner):
            continue
        counts: dict[str, int] = {}
        positions = site.positions()
        for number, channel_set in graph.sets_of(site.owner):
            reason = graph.why_not(number)
            held = sum(len(positions.get(c, ())) for c in channel_set.components)
            if reason is not None and held:
                counts[reason] = counts.get(reason, 0) + held
        for reason, count in counts.items():
            yield ProtectedRow(graph.name_of(site.owner), count, reason)
    for module, reason in graph.refused.items():
        yield ProtectedRow(graph.name_of(module), _outputs(module), reason)


def _outputs(module: nn.Module) -> int:
    rule = rule_of(module)
    assert rule is not None, "only layers with a rule are refused"
    return rule.n_out(module)


def _named(names: tuple[str, ...]) -> str:
    rest = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {rest} more" if rest > 0 else "")
