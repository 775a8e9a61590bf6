"""The proof by values: what differs stays with its reason, and the model never notices."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from laws import assert_same, far, keep_by, pruned_copy, snapshot
from torch import Tensor, nn
from torch.nn import functional

from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, prove
from sepprune_tp.graph.prove import Width

EXAMPLE = torch.randn(1, 1, 17, generator=torch.Generator().manual_seed(0))


class Numbered(nn.Module):
    """Two groups of channels; the size of the second one is a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv1d(1, 8, 1)
        self.fixed = nn.Conv1d(8, 6, 1)
        self.read = nn.Conv1d(6, 2, 1)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 2, T)."""
        return self.read(self.fixed(self.norm(self.make(x))).view(len(x), 6, -1))


class Middle(nn.Module):
    """(B, 1, T) -> conv of 8 channels -> a function -> conv of 2 channels."""

    def __init__(self, function: Callable[..., Tensor], read: int = 8, **parts: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.make, self.read = nn.Conv1d(1, 8, 3, padding=1), nn.Conv1d(read, 2, 1)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.function(self, self.make(x)))


def graph_of(model: nn.Module, example: Any = EXAMPLE, **options: Any) -> ChannelGraph:
    trial = options.pop("trial", True)
    return ChannelGraph("all", trial=trial).build_dependency(model, example, **options)


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {name: group.channel_set.size for name, group in graph.named_groups()}


def layers_of(graph: ChannelGraph, name: str) -> set[str]:
    """Every layer that the group called ``name`` cuts."""
    (found,) = (g.channel_set for n, g in graph.named_groups() if n == name)
    return {graph.name_of(site.owner) for site in found.sites}


def assert_exact(model: nn.Module, example: Tensor) -> nn.Module:
    """Gated is pruned in float64, on two masks and two batch sizes; returns the pruned copy."""
    model, example = copy.deepcopy(model).double().eval(), example.double()
    gates = GateSet(model, example, scope="all")
    pruned = model
    for rule in ("half", "odd"):
        gates.load_masks(keep_by(gates, rule))
        pruned = pruned_copy(gates, example)
        for x in (example, torch.cat([example, example.flip(-1), 2 * example])):
            with torch.no_grad(), gates:
                masked = model(x)
            with torch.no_grad():
                assert far(pruned(x), masked) < 1e-10 < 1e-4 < far(model(x), masked)
    return pruned


# -- what fails stays, with what was seen ---------------------------------------------------------


@pytest.mark.parametrize("large", [True, False])
def test_what_the_model_does_not_run_without_stays(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(prove, "_LARGE", 0)  # then compared in float32, as it is
    model = Numbered()
    graph = graph_of(model)
    assert sizes(graph) == {"make": 8}
    reason = graph.protected["fixed"]
    assert reason.startswith("the model does not run without it (shape '[1, 6, -1]' is invalid")
    assert reason.endswith("is a size written as a number in its code?")
    assert graph.tried.refused and graph.tried.compared > 1
    assert graph.tried.error < (1e-5 if large else 1e-12)
    for _, group in list(graph.named_groups()):
        group.prune([0, 3, 5])
    assert model(EXAMPLE).shape == (1, 2, 17)


def test_without_a_trial_the_pruned_model_fails() -> None:
    """A negative control."""
    model = Numbered()
    graph = graph_of(model, trial=False)
    assert sizes(graph) == {"make": 8, "fixed": 6}
    for _, group in list(graph.named_groups()):
        group.prune([0])
    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        model(EXAMPLE)


def test_a_graph_says_when_nothing_was_proved() -> None:
    graph = graph_of(Numbered(), trial=False)
    assert graph.tried.skipped == "it was not asked for"
    assert (graph.tried.compared, graph.tried.refused) == (0, {})
    assert "proved" in str(graph.report())
    assert "proved" not in str(graph_of(Numbered()).report())


def test_a_model_that_reads_values_is_copied_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "_LARGE", 0)

    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Numbered()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * (1 if x.sum().item() > 0 else 2)

    graph = graph_of(Sign())
    assert sizes(graph) == {"net.make": 8}
    assert graph.tried.skipped is None


def test_a_model_that_cannot_be_copied_says_so() -> None:
    model: Any = Numbered()
    model.cache = model.make.weight * 2  # torch refuses to copy a tensor with a history
    model.lock = (i for i in range(3))  # and Python to copy a generator
    graph = graph_of(model)
    assert str(graph.tried.skipped).startswith("a copy of the model does not run: ")
    assert sizes(graph) == {"make": 8, "fixed": 6}


def test_a_model_that_is_not_reproducible_says_so() -> None:
    turns = itertools.count(1)
    model = Middle(lambda n, x: x * next(turns))
    graph = graph_of(model)
    assert graph.tried.skipped == "the model gives other outputs each time that it runs"
    assert sizes(graph) == {"make": 8}


def test_outputs_keep_their_shapes() -> None:
    """A model that takes its output size from a width would run, and give something else."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.read = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.make(x)).expand(-1, self.make.out_channels, -1)

    graph = graph_of(Wide())
    assert "its outputs have other shapes" in graph.protected["make"]


CONSTANTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scale": lambda n, x: x * x.size(1) ** -0.5,
    "positions": lambda n, x: x + torch.arange(x.size(1)).to(x)[:, None],
    "ramp": lambda n, x: x * torch.linspace(0, 1, x.size(1)).to(x)[:, None],
    "full": lambda n, x: x + torch.full((x.size(1), 1), 1.0 / x.size(1)),
    "count of elements": lambda n, x: x / x[0].numel(),
    "length": lambda n, x: x * len(x.transpose(0, 1)),
    "an attribute of the layer": lambda n, x: x / n.make.out_channels,
    "the shape of its weight": lambda n, x: x / n.make.weight.shape[0],
    "noise": lambda n, x: x + torch.rand(x.size(1), 1, generator=torch.Generator().manual_seed(1)),
    "noise in eval mode": lambda n, x: functional.dropout(x, 0.5, training=True),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_computed_from_the_width_are_found_by_value(name: str) -> None:
    """The cut copy runs and keeps its shapes: only values tell."""
    graph = graph_of(Middle(CONSTANTS[name]))
    assert sizes(graph) == {}
    assert "gated and cut differ by" in graph.protected["make"]
    assert sizes(graph_of(Middle(CONSTANTS[name]), trial=False)) == {"make": 8}


def test_a_constant_that_is_taken_at_construction_is_fine() -> None:
    """A negative control: the same scale, once and for all."""
    model = Middle(lambda n, x: x * n.scale, scale=8**-0.5)
    assert sizes(graph_of(model)) == {"make": 8}
    assert_exact(model, EXAMPLE)


def test_an_even_width_that_the_model_wants() -> None:
    def even(net: Any, x: Tensor) -> Tensor:
        if x.size(1) % 2:
            raise ValueError("an even number of channels, please")
        return x.sin()

    graph = graph_of(Middle(even))
    assert sizes(graph) == {}
    assert "(an even number of channels, please)" in graph.protected["make"]


def test_a_second_batch_size_is_tried() -> None:
    seen = set()

    def scaled(net: Any, x: Tensor) -> Tensor:
        seen.add(len(x))
        return x * x.size(1) ** -0.5 if len(x) > 1 else x.sin()

    graph = graph_of(Middle(scaled))
    assert seen == {1, 3}
    assert sizes(graph) == {} and "differ by" in graph.protected["make"]


def test_a_model_of_one_batch_size_is_proved_on_that() -> None:
    model = Middle(lambda n, x: x.view(1, *x.shape[1:]).sin())
    graph = graph_of(model)
    assert sizes(graph) == {"make": 8} and graph.tried.compared > 1


def test_only_what_fails_stays() -> None:
    """Eight groups, one of which meets a constant of its width: found by halves."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(1, 8, 1)
            self.layers = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(7))
            self.last = nn.Conv1d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for number, layer in enumerate(self.layers):
                x = layer(x).tanh()
                if number == 3:
                    x = x * x.size(1) ** -0.5
            return self.last(x)

    graph = graph_of(Deep())
    free = {"first": 8} | {f"layers.{n}": 8 for n in range(7) if n != 3}
    assert sizes(graph) == free
    assert graph.protected.keys() == {"layers.3", "last"}
    assert_exact(Deep(), EXAMPLE)


def test_what_is_not_proved_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "_RUNS", 0)
    graph = graph_of(Numbered())
    assert sizes(graph) == {}
    assert "the proof took too long to get to it" in graph.protected["make"]


# -- no trace is left -----------------------------------------------------------------------------


def test_a_proof_leaves_no_trace() -> None:
    model = Numbered().train()
    model(EXAMPLE).sum().backward()
    before, state = snapshot(model), torch.get_rng_state()
    untouched = copy.deepcopy(model)
    graph = graph_of(model)
    assert graph.tried.refused
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert torch.equal(model.eval()(EXAMPLE), untouched.eval()(EXAMPLE))


def test_a_proof_of_a_model_that_fails_half_way_leaves_no_trace() -> None:
    """It raises with an exception of its own for any other width."""

    class Own(Exception):
        pass

    def strict(net: Any, x: Tensor) -> Tensor:
        if x.size(1) != 8:
            raise Own
        return x

    model = Middle(strict)
    before, state = snapshot(model), torch.get_rng_state()
    assert "the model does not run without it (Own" in graph_of(model).protected["make"]
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() is torch.float32


# -- numbers that follow a width ------------------------------------------------------------------


class Holder(nn.Module):
    """Keeps numbers and uses them in its code."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **numbers: Any) -> None:
        super().__init__()
        self.function = function
        for name, number in numbers.items():
            setattr(self, name, number)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


FOLLOWING: dict[str, tuple[Callable[[], nn.Module], dict[int, Any]]] = {
    "width": (
        lambda: Holder(lambda n, x: x.view(len(x), n.width, -1).sin(), width=8),
        {5: {"width": 5}},
    ),
    "twice the width": (
        lambda: Holder(
            lambda n, x: torch.cat([x, -x], 1).view(len(x), n.wide, -1)[:, : n.wide // 2], wide=16
        ),
        {5: {"wide": 10}},
    ),
    "shape": (
        lambda: Holder(lambda n, x: x.view(len(x), *n.shape).sin(), shape=(8, -1)),
        {3: {"shape": (3, -1)}},
    ),
    "list": (
        lambda: Holder(lambda n, x: x.split(n.sizes, 1)[0].sin(), sizes=[8]),
        {3: {"sizes": [3]}},
    ),
    "two": (
        lambda: Holder(
            lambda n, x: x.view(-1, n.one, x.size(-1)).sin().reshape(-1, n.two, x.size(-1)),
            one=8,
            two=8,
        ),
        {3: {"one": 3, "two": 3}},
    ),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_numbers_in_attributes_follow(name: str) -> None:
    build, expected = FOLLOWING[name]
    model = nn.Sequential(nn.Conv1d(1, 8, 3), build(), nn.Conv1d(8, 2, 1))
    assert_exact(model, EXAMPLE)
    (count, values), *_ = expected.items()
    graph = graph_of(model)
    assert sizes(graph) == {"0": 8}, graph.protected
    (group,) = (group for _, group in graph.named_groups())
    group.prune(list(range(8 - count)))
    assert {key: getattr(model[1], key) for key in values} == values
    assert model(EXAMPLE).shape == (1, 2, 15)


def test_a_number_that_means_something_else_stays() -> None:
    """It equals the width by chance; nothing fails, so nothing is tried."""
    model = nn.Sequential(
        nn.Conv1d(1, 8, 3), Holder(lambda n, x: x.sin() * n.power, power=8), nn.Conv1d(8, 2, 1)
    )
    graph = graph_of(model)
    (group,) = (group for _, group in graph.named_groups())
    group.prune([1, 2])
    assert model[1].power == 8


@pytest.mark.parametrize(
    ("value", "item", "present", "wanted"),
    [
        (8, None, 3, 3),
        (16, None, 3, 6),
        (4, None, 6, 3),
        (4, None, 3, None),
        ((8, -1), 0, 5, (5, -1)),
        ([2, 8], 1, 5, [2, 5]),
        (torch.Size([8, 2]), 0, 5, torch.Size([5, 2])),
    ],
)
def test_a_width_is_a_whole_number(value: Any, item: Any, present: int, wanted: Any) -> None:
    module: Any = Holder(lambda n, x: x, held=value)
    number = value if item is None else value[item]
    width = Width("", "held", item, number, 8, "make", "out")
    assert width.apply(module, present) is (wanted is not None)
    assert module.held == (value if wanted is None else wanted)
    assert type(module.held) is type(value)


# -- sets that go together ------------------------------------------------------------------------

TIES: dict[str, tuple[Callable[[], nn.Module], dict[str, int], set[str]]] = {
    "viewed as its input": (
        lambda: Middle(
            lambda n, x: n.mix(x.transpose(1, 2)).view(len(x), -1, x.size(1)).transpose(1, 2),
            mix=nn.Linear(8, 8),
        ),
        {"make": 8},
        {"make", "mix", "read"},
    ),
    "expanded as another": (
        lambda: Middle(
            lambda n, x: torch.cat([x, n.mix(x).mean(2, keepdim=True).expand_as(x)], 1),
            mix=nn.Conv1d(8, 8, 1),
            read=16,
        ),
        {"make": 8},
        {"make", "mix", "read"},
    ),
    "new zeros of its shape": (
        lambda: Middle(
            lambda n, x: torch.cat([n.mix(x), x.new_zeros(x.shape)], 1)[:, : x.size(1)] + 0 * x,
            mix=nn.Conv1d(8, 8, 1),
        ),
        {"make": 8},
        {"make", "mix", "read"},
    ),
}


@pytest.mark.parametrize("name", TIES)
def test_sets_that_the_code_ties_by_shape_are_one(name: str) -> None:
    build, expected, layers = TIES[name]
    graph = graph_of(build())
    assert sizes(graph) == expected, graph.protected
    assert layers_of(graph, "make") == layers
    assert_exact(build(), EXAMPLE)


# -- whole heads ----------------------------------------------------------------------------------


class Heads(nn.Module):
    """One projection for queries, keys and values; how heads are counted is a function's."""

    def __init__(self, width: int = 24, heads: int = 4, literal: bool = True) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, width), nn.Linear(width, 2)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.literal = heads, literal

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        batch, time, _ = x.shape
        shape = (-1, 6) if self.literal else (self.heads, -1)
        q, k, v = self.qkv(x).view(batch, time, 3, *shape).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x + self.proj(y.transpose(1, 2).flatten(2)))


def test_whole_heads_where_the_width_of_a_head_is_a_number() -> None:
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    graph = graph_of(Heads(), x)
    assert sizes(graph) == {"into": 24, "qkv": 4}, graph.protected
    pruned: Any = assert_exact(Heads(), x)
    assert pruned.qkv.out_features % 18 == 0 and pruned.proj.in_features % 6 == 0


def test_channels_of_every_head_where_their_number_is_kept() -> None:
    x = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    graph = graph_of(Heads(literal=False), x)
    assert sizes(graph) == {"into": 24, "qkv": 6}, graph.protected
    pruned: Any = assert_exact(Heads(literal=False), x)
    assert pruned.qkv.out_features % 12 == 0 and pruned.heads == 4
