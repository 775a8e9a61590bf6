"""What the code of a model may mean, tried until the proof holds.

A set of channels whose cut copy fails is not given up at once. Numbers in its modules that equal a
width may have to follow it; sets that fail alone may have to be cut together, because the code
takes one's width from another's shape; an axis that was split may shrink along another side (whole
heads instead of the width of each). What then proves exact is cut that way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .assembly import ChannelSet
from .prove import Bench, Failure, Proof, Width

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["prove"]

_ROUNDS = 8
_TRIED = 12  # single numbers of a module

Numbered = tuple[int, ChannelSet]
Unit = list[Numbered]
"""Sets of the same place in repeated blocks: they pass or fail alike."""


@dataclass
class _State:
    graph: ChannelGraph
    bench: Bench
    good: list[Numbered]
    bad: list[tuple[Unit, Failure]]


def prove(graph: ChannelGraph, bench: Bench) -> Proof:
    """Compare the gated model and cut copies until every set that is offered is exact.

    Args:
        graph: A graph whose sets are formed; formed anew where another hypothesis holds.
        bench: Runs gated models and cut copies.

    Returns:
        What was found.
    """
    if bench.skipped is not None:
        return Proof(skipped=bench.skipped)
    if not graph.offered():
        return Proof()
    if bench.fails(graph, graph.offered()) is None:
        return Proof(error=bench.error, compared=bench.trials)
    if not bench.runs_alike():
        return Proof(skipped=bench.skipped)
    state = _assume(graph, bench, _units)
    if any(len(unit) > 1 for unit, _ in state.bad):
        state = _assume(graph, bench, lambda graph: [[numbered] for numbered in graph.offered()])
    refused = {n: _reason(graph, bench, (n, s), why) for unit, why in state.bad for n, s in unit}
    return Proof(refused, None, bench.error, bench.trials)


def _assume(
    graph: ChannelGraph, bench: Bench, units: Callable[[ChannelGraph], list[Unit]]
) -> _State:
    """Try hypotheses round by round, until nothing fails or none is left."""
    tried: dict[int, set[int]] = {}
    state = _searched(graph, bench, units(graph))
    for _ in range(_ROUNDS):
        _follow_widths(state, 1)
        state = _tie_together(state)
        if not state.bad or not _turn_rectangles(state, tried):
            break
        state = _searched(graph, bench, units(graph))
    _follow_widths(state, 3)
    return state


def _units(graph: ChannelGraph) -> list[Unit]:
    found: dict[tuple[Any, ...], Unit] = {}
    for number, channel_set in graph.offered():
        names = {re.sub(r"[0-9]+", "*", graph.name_of(s.owner)) for s in channel_set.sites}
        found.setdefault(tuple(sorted(names)), []).append((number, channel_set))
    return list(found.values())


def _reason(graph: ChannelGraph, bench: Bench, numbered: Numbered, failure: Failure) -> str:
    suspicion = graph.suspicion(numbered[1])
    if suspicion is not None:
        return f"{suspicion} ({failure.what})"
    if failure.raised:
        where = f", in {failure.where}" if failure.where else ""
        return (
            f"the model does not run without it ({failure.what}){where}: is a size written as a "
            "number in its code?"
        )
    where = bench.first_difference(graph, [numbered]) if not bench.spent else ""
    return f"the pruned model is not the gated one: {failure.what}" + (
        f", {where}" if where else ""
    )


# -- which sets fail ------------------------------------------------------------------------------


def _searched(graph: ChannelGraph, bench: Bench, units: list[Unit]) -> _State:
    """Add to the good sets what can go together with them, by halves."""
    state = _State(graph, bench, [], [])
    suspects = [u for u in units if any(graph.suspicion(s) is not None for _, s in u)]
    clear = [u for u in units if u not in suspects]
    for part in (clear, suspects):
        _add(state, part, 0)
    return state


def _add(state: _State, units: list[Unit], first: int) -> None:
    if not units:
        return
    if state.bench.spent:
        late = Failure("the proof took too long to get to it", False)
        state.bad.extend((unit, late) for unit in units)
        return
    sets = [numbered for unit in units for numbered in unit]
    failure = state.bench.fails(state.graph, [*state.good, *sets], first)
    if failure is None:
        state.good.extend(sets)
    elif len(units) == 1:
        state.bad.append((units[0], failure))
    else:
        half = len(units) // 2
        _add(state, units[:half], failure.trial)
        _add(state, units[half:], failure.trial)


# -- numbers that follow a width ------------------------------------------------------------------


def _follow_widths(state: _State, reach: int) -> None:
    """Let numbers of modules follow channels where that makes a copy exact.

    Args:
        state: Changed in place.
        reach: How many modules around a failure are looked at.
    """
    left = []
    for unit, failure in state.bad:
        found = _widths_for(state, unit, failure, [], reach)
        if found is None:
            left.append((unit, failure))
        else:
            state.bench.widths.extend(found)
            state.good.extend(unit)
    state.bad = left


def _widths_for(
    state: _State, unit: Unit, failure: Failure, known: list[Width], reach: int, depth: int = 0
) -> list[Width] | None:
    """Numbers that have to follow the channels of a unit, with those that are known."""
    graph, bench = state.graph, state.bench
    taken = {(w.module, w.attribute, w.item) for w in known}
    places = [n for _, s in unit for n in graph.places_of(s)]
    names = [*failure.modules[:reach], *places[:reach]]
    candidates = [
        width
        for width in _candidates(graph, unit, list(dict.fromkeys(names)))
        if (width.module, width.attribute, width.item) not in taken
    ]
    for chosen in _selections(candidates, reach):
        if bench.spent:
            return None
        every = [*known, *_alike(graph, unit, chosen, taken)]
        again = bench.fails(graph, [*state.good, *unit], failure.trial, every)
        if again is None:
            return every
        if again.raised and again.modules and again.modules != failure.modules and depth < 3:
            more = _widths_for(state, unit, again, every, reach, depth + 1)
            if more is not None:
                return more
    return None


def _alike(graph: ChannelGraph, unit: Unit, chosen: list[Width], taken: set[Any]) -> list[Width]:
    """The same numbers of the modules that do the same for the other sets of a unit."""
    modules = dict(graph.model.named_modules())
    found = {(w.module, w.attribute, w.item): w for w in chosen}
    for width in chosen:
        kind = type(modules[width.module])
        for _, channel_set in unit:
            for name in _modules_around(graph, channel_set):
                module = modules[name]
                key = (name, width.attribute, width.item)
                if type(module) is not kind or key in found or key in taken:
                    continue
                for other in _candidates(graph, [(0, channel_set)], [name]):
                    same = (other.attribute, other.item, other.grouped, other.side)
                    share = other.value * width.count == width.value * other.count
                    if share and same == (width.attribute, width.item, width.grouped, width.side):
                        found[key] = other
                        break
    return list(found.values())


def _modules_around(graph: ChannelGraph, channel_set: ChannelSet) -> list[str]:
    """Names of the modules that hold layers of a set or reshape its channels."""
    names: dict[str, None] = dict.fromkeys(graph.places_of(channel_set))
    for site in channel_set.sites:
        words = graph.name_of(site.owner).split(".")
        for count in range(len(words), -1, -1):
            names.setdefault(".".join(words[:count]))
    known = dict(graph.model.named_modules())
    return [name for name in names if name in known]


def _selections(candidates: list[Width], reach: int) -> Iterator[list[Width]]:
    """All numbers of the innermost modules, then of more of them, then single ones."""
    modules = list(dict.fromkeys(w.module for w in candidates))
    seen: set[tuple[Any, ...]] = set()
    for count in range(1, min(reach, len(modules)) + 1):
        for grouped in (False, True):
            chosen = _one_each(
                [w for w in candidates if w.module in modules[:count]], prefer_grouped=grouped
            )
            key = tuple((w.module, w.attribute, w.item, w.grouped) for w in chosen)
            if chosen and key not in seen:
                seen.add(key)
                yield chosen
    for width in candidates[:_TRIED]:
        key = ((width.module, width.attribute, width.item, width.grouped),)
        if key not in seen:
            seen.add(key)
            yield [width]


def _one_each(widths: list[Width], prefer_grouped: bool) -> list[Width]:
    chosen: dict[tuple[str, str, int | None], Width] = {}
    for width in sorted(widths, key=lambda w: w.grouped is not prefer_grouped):
        chosen.setdefault((width.module, width.attribute, width.item), width)
    return list(chosen.values())


def _candidates(graph: ChannelGraph, unit: Unit, modules: Sequence[str]) -> Iterator[Width]:
    """Numbers that are a width of a set, a multiple or a share of one."""
    layers = dict(graph.model.named_modules())
    for name in modules:
        module = layers.get(name)
        if module is None or module in graph.rules:
            continue  # a layer that is cut counts its own channels
        near = [s for _, s in unit if name in _modules_around(graph, s)] or [s for _, s in unit[:1]]
        for attribute, item, value in _numbers(module):
            for owner, side, count, unit_size, grouped in _counts(graph, near[0]):
                if value * unit_size % count == 0:  # whole, whatever goes
                    yield Width(name, attribute, item, value, count, owner, side, grouped)


def _numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    for attribute, value in module.__dict__.items():
        if attribute == "training" or attribute.startswith("__"):
            continue
        if type(value) is int and value > 1:
            yield attribute, None, value
        elif isinstance(value, (tuple, list)) and len(value) <= 8:
            for item, number in enumerate(value):
                if type(number) is int and number > 1:
                    yield attribute, item, number


def _counts(
    graph: ChannelGraph, channel_set: ChannelSet
) -> Iterator[tuple[str, str, int, int, bool]]:
    """Layers of a set: how many channels, or components, of theirs there are, and go at once."""
    seen: set[tuple[int, int, bool]] = set()
    root = channel_set.root
    sites = [root, *(s for s in channel_set.sites if s is not root)]
    for grouped in (False, True):
        for site in sites:
            members = len(site.members())
            count = members if grouped else site.components.numel()
            unit = 1 if grouped or count % members else count // members
            if count > 1 and (count, unit, grouped) not in seen:
                seen.add((count, unit, grouped))
                yield graph.name_of(site.owner), site.side, count, unit, grouped


# -- sets that go together ------------------------------------------------------------------------


def _tie_together(state: _State) -> _State:
    """Try sets that fail alone as one, where one's width is a multiple of the other's."""
    for with_widths in (False, True):
        found: _State | None = state
        while found is not None and len(found.bad) > 1:
            state, found = found, _tied(found, with_widths)
        state = state if found is None else found
    return state


def _tied(state: _State, with_widths: bool) -> _State | None:
    """The state after some failing sets were made one, or None if that helps nothing."""
    graph, bench = state.graph, state.bench
    failures = {n: why for unit, why in state.bad for n, _ in unit}
    for chosen in _unions(graph, [numbered for unit, _ in state.bad for numbered in unit]):
        if bench.spent:
            return None
        ties = list(graph.ties)
        wanted = {label for _, s in [*state.good, *chosen] for label in s.root.labels.tolist()}
        graph.ties.extend(_ties(chosen))
        graph.form()
        offered = graph.offered()
        members = [n for n in offered if set(n[1].root.labels.tolist()) & wanted]
        tied = _holding(graph, chosen)
        if tied:
            failure = bench.fails(graph, members)
            widths: list[Width] | None = []
            if failure is not None:
                good = [n for n in members if n not in tied]
                trial = _State(graph, bench, good, [])
                widths = _widths_for(trial, tied, failure, [], 1) if with_widths else None
            if widths is not None:
                bench.widths.extend(widths)
                merged = {n for n, _ in chosen}
                left = [([s for s in u if s[0] not in merged], why) for u, why in state.bad]
                rest = _State(graph, bench, [], [(u, why) for u, why in left if u])
                return _State(graph, bench, members, _again(rest, failures)[1])
        graph.ties[:] = ties
        graph.form()
    state.good, state.bad = _again(state, failures)
    return None


def _again(
    state: _State, failures: dict[int, Failure]
) -> tuple[list[Numbered], list[tuple[Unit, Failure]]]:
    """The same sets of a graph that was formed anew."""
    now = {frozenset(s.root.labels.tolist()): (n, s) for n, s in state.graph.offered()}

    def find(numbered: Numbered) -> list[Numbered]:
        found = now.get(frozenset(numbered[1].root.labels.tolist()))
        return [] if found is None else [found]

    good = [found for numbered in state.good for found in find(numbered)]
    bad = [([f for n in unit for f in find(n)], why) for unit, why in state.bad]
    return good, [(unit, why) for unit, why in bad if unit]


def _holding(graph: ChannelGraph, chosen: Sequence[Numbered]) -> list[Numbered]:
    labels = {label for _, s in chosen for label in s.root.labels.tolist()}
    return [n for n in graph.offered() if set(n[1].root.labels.tolist()) & labels]


def _unions(graph: ChannelGraph, sets: list[Numbered]) -> Iterator[list[Numbered]]:
    """Sets that may be one: those whose layers stand side by side, those that fit, then pairs."""
    if len(sets) < 2:
        return
    seen: set[frozenset[int]] = set()
    ordered = sorted(sets, key=lambda n: -n[1].size)
    around = {n: _parents(graph, s) for n, s in ordered}
    options: list[list[Numbered]] = []
    for largest in ordered:
        fitting = [n for n in ordered if largest[1].size % n[1].size == 0]
        near = [n for n in fitting if around[n[0]] & around[largest[0]]]
        options.extend([near, [n for n in near if n[1].size == largest[1].size]])
    for largest in ordered:
        options.append([n for n in ordered if largest[1].size % n[1].size == 0])
        options.append([n for n in ordered if n[1].size == largest[1].size])
    for one in ordered[:6]:
        options.extend([one, other] for other in ordered[:6] if one[1].size % other[1].size == 0)
    for option in options:
        key = frozenset(n for n, _ in option)
        if len(key) > 1 and key not in seen:
            seen.add(key)
            yield option


def _parents(graph: ChannelGraph, channel_set: ChannelSet) -> set[str]:
    """Names of the modules that hold layers of a set, or whose code reshapes its channels."""
    held = {graph.name_of(s.owner).rpartition(".")[0] for s in channel_set.sites}
    return held | set(graph.places_of(channel_set))


def _ties(chosen: list[Numbered]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of labels: each channel of a smaller set with neighbours of the largest."""
    largest = max((s for _, s in chosen), key=lambda s: s.size)
    found = []
    first = _representatives(largest)
    for _, other in chosen:
        if other is not largest:
            second = _representatives(other)
            step = largest.size // other.size
            index = torch.arange(largest.size) // step
            found.append((first, second[index]))
    return found


def _representatives(channel_set: ChannelSet) -> torch.Tensor:
    members = channel_set.root.members()
    index = torch.tensor([members[c] for c in channel_set.components])
    return channel_set.root.labels[index]


# -- axes that may shrink along another side ------------------------------------------------------


def _turn_rectangles(state: _State, tried: dict[int, set[int]]) -> bool:
    """Let split axes of failing sets shrink along the next side; whether any can."""
    graph = state.graph
    turned = False
    sets = [channel_set for unit, _ in state.bad for _, channel_set in unit]
    for channel_set in sets:
        for number in graph.rectangles_of(channel_set):
            options = graph.sides_of(number)
            known = tried.setdefault(number, {graph.present_side(number)})
            rest = [axis for axis in options if axis not in known]
            if rest:
                known.add(rest[0])
                graph.axes[number] = rest[0]
                turned = True
    if turned:
        graph.form()
    return turned
