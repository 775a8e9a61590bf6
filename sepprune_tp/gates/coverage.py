"""Say what of a model cannot be pruned, and what its example does not show."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .._advice import advise
from ..errors import InputError
from ..graph import ChannelGraph
from ..graph.assembly import Owner
from ..graph.limits import with_parts
from ..graph.scope import host_of, modules_in_scope
from ..layers import rule_of
from ..layers.bare import BareTensor
from ..layers.composite import hosts_in, parts_of
from .table import ScoreTable

__all__ = [
    "check_closed",
    "main_reasons",
    "prunable_params",
    "unreached",
    "warn_of_little",
    "warn_of_lost",
    "warn_of_unreached",
]

LITTLE = 0.2
"""Share of the parameters in scope below which a user is told why it is so small."""
_SHOWN = 3  # reasons, and layers for each


def unreached(graph: ChannelGraph) -> list[str]:
    """Names of layers that are known, hold parameters and did not run on the example."""
    seen = _seen(graph)
    return [
        name
        for name, layer in graph.model.named_modules()
        if layer not in graph.ran
        and (rule := rule_of(layer)) is not None
        and set(rule.parameters(layer)) - seen
    ]


def prunable_params(graph: ChannelGraph) -> int:
    """Parameters that go with all channels that can go, as if each layer were one matrix."""
    members = {c for channel_set in graph.prunable_sets() for c in channel_set.components}
    left: dict[Owner, float] = {}
    for site in graph.sites():
        positions = site.positions()
        gone = sum(len(positions[c]) for c in members & positions.keys())
        share = gone / max(1, site.components.numel())
        left[site.owner] = left.get(site.owner, 1.0) * (1 - share)
    return round(sum(_size(owner) * (1 - share) for owner, share in left.items()))


def warn_of_unreached(graph: ChannelGraph, names: list[str]) -> None:
    """Warn of layers that may read channels unseen.

    Args:
        graph: The graph of the model.
        names: What :func:`unreached` found.
    """
    if names and graph.prunable_sets():
        advise(
            f"{_listed(names)} of {type(graph.model).__name__} did not run on the example, so what "
            "they read is unknown: they keep their size when channels that they read are pruned, "
            "and fail then. Give an example (or forward_fn=) that reaches them, remove them, or "
            "leave the layers that feed them out of scope=."
        )


def warn_of_little(graph: ChannelGraph, prunable: int, what: str) -> None:
    """Warn where less than a fifth of the parameters in scope can be pruned.

    Args:
        graph: The graph of the model.
        prunable: Parameters that go with all channels that can go.
        what: What was made, for the message.
    """
    inside = modules_in_scope(graph.scope, graph.model)
    ignored = with_parts([*graph.IGNORED_LAYERS_IN_TRACING, *graph.ignored_params])
    total = sum(
        p.numel()
        for p in {p for m in graph.model.modules() if _in(m, inside) for p in m.parameters(False)}
        - {p for owner in ignored for p in _parameters(owner)}
    )
    if not total or prunable >= LITTLE * total:
        return
    advise(
        f"{what}: {prunable:,} of the {total:,} parameters in scope {_named(graph)} can be pruned "
        f"({prunable / total:.1%}). What protects most:{main_reasons(graph)}\n"
        "The report() of the channel graph lists all of it."
    )


def main_reasons(graph: ChannelGraph) -> str:
    """The reasons that protect most parameters in scope, a line each."""
    inside = modules_in_scope(graph.scope, graph.model)
    ignored = with_parts([*graph.IGNORED_LAYERS_IN_TRACING, *graph.ignored_params])
    costs: dict[str, int] = {}
    layers: dict[str, list[str]] = {}
    for name, reason, params in _protected(graph, inside, ignored):
        costs[reason] = costs.get(reason, 0) + params
        layers.setdefault(reason, []).append(name)
    first = sorted(costs, key=lambda reason: -costs[reason])[:_SHOWN]
    lines = [f"\n  {_listed(layers[r])} ({costs[r]:,} parameters): {r}" for r in first]
    return "".join(lines) or " no layer of a known kind ran"


def check_closed(graph: ChannelGraph, table: ScoreTable) -> None:
    """Refuse masks that close channels which cannot be removed, though nobody ruled them out.

    Args:
        graph: The graph of the model to prune.
        table: The masks.

    Raises:
        InputError: With the first such group and what protects it.
    """
    owners = {graph.name_of(owner): owner for owner in graph.module2node}
    for group in table.groups:
        row = table.row(graph.model, group.name)
        if row is None or bool(row.keep.all()):
            continue
        root = owners[group.name]
        closed = set(graph.site_of(root, "out").components[~row.keep].tolist())
        for number, channel_set in graph.sets_of(root):
            reason = graph.why_not(number) if closed & set(channel_set.components) else None
            if reason is not None and graph.held_by(number) is None:
                raise InputError(
                    f"the masks close channels of '{group.name}' that cannot be removed from this "
                    f"{type(graph.model).__name__}: {reason}. Prune it on the example that the "
                    "gates were made on (with their output_transform=), or leave them open."
                )


def warn_of_lost(graph: ChannelGraph, table: ScoreTable) -> None:
    """Warn where masks keep channels that a model has lost before."""
    lost = []
    for group in table.groups:
        row = table.row(graph.model, group.name)
        left = set() if row is None else set(row.gates[row.keep].tolist())
        if len(left) < int(table.keep[group.gates].sum()):
            lost.append(group.name)
    if lost:
        advise(
            f"{_listed(lost)} of this {type(graph.model).__name__} lost channels before that the "
            "masks keep; they do not come back. Prune a copy of the dense model instead "
            "(sepprune_tp.restore_dense)."
        )


def _protected(
    graph: ChannelGraph, inside: set[nn.Module] | None, ignored: set[Owner]
) -> Iterator[tuple[str, str, int]]:
    """Layers in scope that cannot be pruned against the user's wish: name, reason, parameters."""
    for layer, why in graph.refused.items():
        if _in(layer, inside):
            yield graph.name_of(layer), why, _size(layer)
    yield from _unseen(graph, inside)
    for site in graph.sites():
        name = graph.name_of(site.owner)
        if site.side != "out" or not graph.makes(site.owner) or site.owner in ignored:
            continue
        if not _in(host_of(site.owner, name, graph.model), inside):
            continue
        positions, count = site.positions(), site.components.numel()
        for number, channel_set in graph.sets_of(site.owner):
            held = graph.held_by(number)
            reason = graph.why_not(number) or channel_set.ungated
            if reason is None or (held is not None and held.owner in ignored):
                continue
            share = sum(len(positions.get(c, ())) for c in channel_set.components)
            yield name, reason, _size(site.owner) * share // count


def _unseen(graph: ChannelGraph, inside: set[nn.Module] | None) -> Iterator[tuple[str, str, int]]:
    """Modules in scope whose parameters the trace did not see."""
    seen = _seen(graph)
    for name, module in graph.model.named_modules():
        size = sum(p.numel() for p in module.parameters(False) if p not in seen)
        if size and _in(module, inside):
            kind = type(module).__name__
            why = f"there is no rule for {kind}" if module in graph.ran else "it did not run"
            yield name, why, size


def _seen(graph: ChannelGraph) -> set[nn.Parameter]:
    owners: set[Owner] = {*graph.module2node, *graph.refused}
    hosts = [h for h in hosts_in(graph.model.modules()) if owners & set(parts_of(h).values())]
    return {p for owner in (*owners, *hosts) for p in _parameters(owner)}


def _in(module: nn.Module, inside: set[nn.Module] | None) -> bool:
    return inside is None or module in inside


def _parameters(owner: Owner) -> list[nn.Parameter]:
    held = owner.tensor if isinstance(owner, BareTensor) else owner
    if isinstance(held, nn.Module):
        return list(held.parameters())
    return [held] if isinstance(held, nn.Parameter) else []


def _size(owner: Owner) -> int:
    rule = None if isinstance(owner, (nn.Parameter, BareTensor)) else rule_of(owner)
    if rule is None or isinstance(owner, nn.Parameter):
        return sum(parameter.numel() for parameter in _parameters(owner))
    return int(rule.params(owner, rule.n_in(owner), rule.n_out(owner)))


def _named(graph: ChannelGraph) -> str:
    return repr(graph.scope) if isinstance(graph.scope, str) else "(modules)"


def _listed(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    rest = len(names) - _SHOWN
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown + (f" and {rest} more" if rest > 0 else "")
