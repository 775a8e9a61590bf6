"""What the code of a model may mean, tried until the proof holds.

A set of channels whose cut copy fails is not given up at once. Numbers in its modules that equal a
width may have to follow it; sets that fail alone may have to be cut together, because the code
takes one's width from another's shape; an axis that was split may shrink along another side (whole
heads instead of the width of each). What then proves exact is cut that way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
_RUNS = 600  # of a model; what is not proved by then is protected
_TRIED = 12  # single numbers of a module

Numbered = tuple[int, ChannelSet]


@dataclass
class _State:
    graph: ChannelGraph
    bench: Bench
    good: list[Numbered]
    bad: list[tuple[Numbered, Failure]]


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
    tried: dict[int, set[int]] = {}
    state = _searched(graph, bench)
    for _ in range(_ROUNDS):
        if not state.bad:
            break
        _follow_widths(state)
        if state.bad:
            state = _tie_together(state)
        if not state.bad or not _turn_rectangles(state, tried):
            break
        state = _searched(graph, bench)
    refused = {number: _reason(graph, s, why) for (number, s), why in state.bad}
    return Proof(refused, None, bench.error, bench.trials)


def _reason(graph: ChannelGraph, channel_set: ChannelSet, failure: Failure) -> str:
    suspicion = graph.suspicion(channel_set)
    if suspicion is not None:
        return f"{suspicion} ({failure.what})"
    if failure.raised:
        return (
            f"the model does not run without it ({failure.what}): is a size written as a number "
            "in its code?"
        )
    return f"the pruned model is not the gated one: {failure.what}"


# -- which sets fail ------------------------------------------------------------------------------


def _searched(graph: ChannelGraph, bench: Bench) -> _State:
    """Add to the good sets what can go together with them, by halves."""
    state = _State(graph, bench, [], [])
    sets = graph.offered()
    suspects = [s for s in sets if graph.suspicion(s[1]) is not None]
    clear = [s for s in sets if graph.suspicion(s[1]) is None]
    for part in (clear, suspects):
        _add(state, part, 0)
    return state


def _add(state: _State, sets: list[Numbered], first: int) -> None:
    if not sets:
        return
    if state.bench.runs > _RUNS:
        late = Failure("the proof took too long to get to it", False)
        state.bad.extend((s, late) for s in sets)
        return
    failure = state.bench.fails(state.graph, [*state.good, *sets], first)
    if failure is None:
        state.good.extend(sets)
    elif len(sets) == 1:
        state.bad.append((sets[0], failure))
    else:
        half = len(sets) // 2
        _add(state, sets[:half], failure.trial)
        _add(state, sets[half:], failure.trial)


# -- numbers that follow a width ------------------------------------------------------------------


def _follow_widths(state: _State) -> None:
    """Let numbers of modules follow channels where that makes a copy exact."""
    left = []
    for numbered, failure in state.bad:
        found = _widths_for(state, numbered, failure)
        if found is None:
            left.append((numbered, failure))
        else:
            state.bench.widths.extend(found)
            state.good.append(numbered)
    state.bad = left


def _widths_for(
    state: _State, numbered: Numbered, failure: Failure, depth: int = 0
) -> list[Width] | None:
    graph, bench = state.graph, state.bench
    names = [*failure.modules, *graph.places_of(numbered[1])]
    candidates = list(_candidates(graph, numbered[1], list(dict.fromkeys(names))))
    wanted = [*state.good, numbered]
    for chosen in _selections(candidates):
        if bench.runs > _RUNS:
            return None
        again = bench.fails(graph, wanted, failure.trial, chosen)
        if again is None:
            return chosen
        if again.raised and again.modules != failure.modules and depth < 3:
            more = _more_widths(state, numbered, again, chosen, depth + 1)
            if more is not None:
                return more
    return None


def _more_widths(
    state: _State, numbered: Numbered, failure: Failure, known: list[Width], depth: int
) -> list[Width] | None:
    """Numbers elsewhere that have to follow as well, with those that are known."""
    graph, bench = state.graph, state.bench
    names = [*failure.modules, *graph.places_of(numbered[1])]
    candidates = [
        w
        for w in _candidates(graph, numbered[1], list(dict.fromkeys(names)))
        if all((w.module, w.attribute, w.item) != (k.module, k.attribute, k.item) for k in known)
    ]
    for chosen in _selections(candidates):
        if bench.runs > _RUNS:
            return None
        again = bench.fails(graph, [*state.good, numbered], failure.trial, [*known, *chosen])
        if again is None:
            return [*known, *chosen]
        if again.raised and again.modules != failure.modules and depth < 3:
            more = _more_widths(state, numbered, again, [*known, *chosen], depth + 1)
            if more is not None:
                return more
    return None


def _selections(candidates: list[Width]) -> Iterator[list[Width]]:
    """All numbers of the innermost modules, then of more of them, then single ones."""
    modules = list(dict.fromkeys(w.module for w in candidates))
    seen: set[tuple[Any, ...]] = set()
    for count in range(1, min(3, len(modules)) + 1):
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


def _candidates(
    graph: ChannelGraph, channel_set: ChannelSet, modules: Sequence[str]
) -> Iterator[Width]:
    """Numbers that are a width of the set, a multiple or a share of one."""
    layers = dict(graph.model.named_modules())
    for name in modules:
        module = layers.get(name)
        if module is None or module in graph.rules:
            continue  # a layer that is cut counts its own channels
        for attribute, item, value in _numbers(module):
            for owner, side, count, grouped in _counts(graph, channel_set):
                if value % count == 0 or count % value == 0:
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
) -> Iterator[tuple[str, str, int, bool]]:
    """Layers of a set with how many channels, and components, of theirs there are."""
    seen: set[tuple[int, bool]] = set()
    root = channel_set.root
    sites = [root, *(s for s in channel_set.sites if s is not root)]
    for grouped in (False, True):
        for site in sites:
            count = len(site.members()) if grouped else site.components.numel()
            if count > 1 and (count, grouped) not in seen:
                seen.add((count, grouped))
                yield graph.name_of(site.owner), site.side, count, grouped


# -- sets that go together ------------------------------------------------------------------------


def _tie_together(state: _State) -> _State:
    """Try sets that fail alone as one, where one's width is a multiple of the other's."""
    graph, bench = state.graph, state.bench
    sets = [numbered for numbered, _ in state.bad]
    for chosen in _unions(sets):
        ties = list(graph.ties)
        wanted = {label for _, s in [*state.good, *chosen] for label in s.root.labels.tolist()}
        graph.ties.extend(_ties(chosen))
        graph.form()
        offered = graph.offered()
        members = [n for n in offered if set(n[1].root.labels.tolist()) & wanted]
        tied = _holding(graph, chosen)
        if tied and bench.runs <= _RUNS and bench.fails(graph, members) is None:
            left = [n for n in offered if n not in members]
            made = _State(graph, bench, members, [])
            _add(made, left, 0)
            return made if not made.bad else _tied_further(made)
        if tied and bench.runs <= _RUNS:
            failure = bench.fails(graph, members)
            fixed = None
            if failure is not None:
                good = [n for n in members if n not in tied]
                trial = _State(graph, bench, good, [])
                fixed = _widths_for(trial, tied[0], failure) if len(tied) == 1 else None
            if fixed is not None:
                bench.widths.extend(fixed)
                made = _State(graph, bench, members, [])
                _add(made, [n for n in offered if n not in members], 0)
                return made
        graph.ties[:] = ties
        graph.form()
    return _State(graph, bench, *_again(state))


def _tied_further(state: _State) -> _State:
    _follow_widths(state)
    return _tie_together(state) if len(state.bad) > 1 else state


def _again(state: _State) -> tuple[list[Numbered], list[tuple[Numbered, Failure]]]:
    """The same sets of a graph that was formed anew."""
    now = {frozenset(s.root.labels.tolist()): (n, s) for n, s in state.graph.offered()}

    def find(numbered: Numbered) -> Numbered | None:
        return now.get(frozenset(numbered[1].root.labels.tolist()))

    good = [found for found in map(find, state.good) if found is not None]
    bad = [(found, why) for s, why in state.bad if (found := find(s)) is not None]
    return good, bad


def _holding(graph: ChannelGraph, chosen: Sequence[Numbered]) -> list[Numbered]:
    labels = {label for _, s in chosen for label in s.root.labels.tolist()}
    return [n for n in graph.offered() if set(n[1].root.labels.tolist()) & labels]


def _unions(sets: list[Numbered]) -> Iterator[list[Numbered]]:
    """Sets that may be one: all that fit the largest, those of one size, then pairs."""
    if len(sets) < 2:
        return
    seen: set[frozenset[int]] = set()
    ordered = sorted(sets, key=lambda n: -n[1].size)
    options: list[list[Numbered]] = []
    for largest in ordered:
        fitting = [n for n in ordered if largest[1].size % n[1].size == 0]
        options.append(fitting)
        options.append([n for n in ordered if n[1].size == largest[1].size])
    for one in ordered[:6]:
        options.extend([one, other] for other in ordered[:6] if one[1].size % other[1].size == 0)
    for option in options:
        key = frozenset(n for n, _ in option)
        if len(key) > 1 and key not in seen:
            seen.add(key)
            yield option


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
    for (_, channel_set), _why in state.bad:
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
