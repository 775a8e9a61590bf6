"""The latency of masks: tables of layers, their cache, and a budget that is met by measuring.

No test looks at a clock: times are those of fake machines that are known exactly.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import SEPARATORS, randomised
from laws import example as example_of
from torch import Tensor, nn

from sepprune_tp import (
    Budget,
    GateSet,
    SepPruneError,
    SepPruneImportance,
    SepPrunePruner,
    learn_gates,
    profile,
)
from sepprune_tp.layers import rule_of
from sepprune_tp.measure.latency import Turns, compare_runs
from sepprune_tp.measure.streaming import compare_streaming
from sepprune_tp.measure.timing import LatencyResource
from sepprune_tp.measure.timing.cache import TimeCache
from sepprune_tp.measure.timing.layers import knots, time_call
from sepprune_tp.measure.timing.table import TimeTable
from sepprune_tp.pruner import pruned_copy
from sepprune_tp.search import masks_for
from sepprune_tp.search.ranking import smallest

NAME = "ConvTasNet-gLN"
RATE, EXTRA = 1e-9, 2e-5


def macs_timer(layer: nn.Module, x: Tensor) -> float:
    """A machine that takes 1 ns a MAC, and as much for an input of what cannot be cut."""
    rule: Any = rule_of(layer)
    if rule is None:
        return RATE * x.numel()
    with torch.no_grad():
        positions = rule.positions(layer, (x,), layer(x))
    return RATE * float(rule.macs(layer, positions, rule.n_in(layer), rule.n_out(layer)))


def macs_compare(first: nn.Module, second: nn.Module, x: Any) -> Turns:
    """The same machine on whole models, with a constant time beside."""
    one, two = (RATE * profile(m, x).macs + EXTRA for m in (first, second))
    return Turns(one, one, two / one)


def example() -> Tensor:
    return torch.randn(1, 640, generator=torch.Generator().manual_seed(0))


def gated(name: str = NAME) -> GateSet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SEPARATORS[name]().eval()
    gates = GateSet(model, example())
    gates.scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(1))
    gates.learned = True
    return gates


def wide() -> GateSet:
    return GateSet(Wide().eval(), torch.randn(1, 64), scope="all")


def with_latency(gates: GateSet, **options: Any) -> LatencyResource:
    settings = {"timer": macs_timer, "compare": macs_compare, "cache": False, **options}
    resource = LatencyResource(gates, **settings)
    gates.resources["latency"] = resource
    return resource


# -- tables ---------------------------------------------------------------------------------------


def product(layer: int, n_in: int, n_out: int) -> float:
    return float((layer + 1) * n_in * n_out)


def test_a_table_is_exact_where_time_is_linear_in_either_width() -> None:
    table = TimeTable([(64, 128), (40, 72)], [(1, 1), (1, 1)], [False, False], product)
    counts = torch.tensor([[[64.0, 128.0], [40.0, 72.0]], [[33.0, 100.0], [24.0, 48.0]]])
    expected = torch.tensor([[64 * 128.0, 2 * 40 * 72.0], [33 * 100.0, 2 * 24 * 48.0]]).double()
    assert torch.allclose(table.exact(counts.double()), expected)
    assert torch.allclose(table.expected(counts.double()), expected)


def test_a_table_tells_aligned_widths_from_others() -> None:
    def machine(layer: int, n_in: int, n_out: int) -> float:
        return n_out * (1.0 if n_out % 8 == 0 else 1.5)

    table = TimeTable([(64, 128)], [(1, 1)], [False], machine)
    at = {n: float(table.exact(torch.tensor([[[64.0, n]]]).double())) for n in (88, 90, 96, 128)}
    assert at[96] == 96 and at[88] == 88
    assert at[90] == pytest.approx(135)
    assert at[128] == 128


def test_a_table_rises_with_the_width_whatever_noise_was_measured() -> None:
    generator = torch.Generator().manual_seed(3)

    def machine(layer: int, n_in: int, n_out: int) -> float:
        return float(n_out + 40 * torch.rand(1, generator=generator))

    table = TimeTable([(64, 128)], [(1, 1)], [False], machine)
    for step in (8.0, 1.0):
        widths = torch.arange(8.0, 129.0, step)
        widths = widths if step == 8 else widths[widths % 8 != 0]
        counts = torch.stack([torch.full_like(widths, 64.0), widths], -1)[:, None].double()
        assert bool((table.exact(counts)[:, 0].diff() >= -1e-9).all())


def test_expected_times_have_gradients() -> None:
    table = TimeTable([(64, 128)], [(1, 1)], [False], product)
    counts = torch.tensor([[[33.3, 71.7]]], dtype=torch.float64, requires_grad=True)
    table.expected(counts).sum().backward()
    assert torch.allclose(counts.grad, torch.tensor([[[71.7, 33.3]]]).double())


@pytest.mark.parametrize(("width", "parts"), [(128, 1), (64, 2), (12, 1), (3, 1), (1, 1), (512, 4)])
@pytest.mark.parametrize("fine", [False, True])
def test_knots_are_widths_that_a_layer_can_have(width: int, parts: int, fine: bool) -> None:
    width = width * parts
    for side in knots(width, parts, fine):
        assert len(side) == len(knots(width, parts, fine)[0]) <= 8 and side == sorted(side)
        assert all(0 < n <= width and n % parts == 0 for n in side) and side[-1] == width


# -- the cache ------------------------------------------------------------------------------------


def test_times_are_kept_and_found_again(tmp_path: Path) -> None:
    calls = []

    def timer(layer: nn.Module, x: Tensor) -> float:
        calls.append(1)
        return macs_timer(layer, x)

    first = with_latency(wide(), timer=timer, cache=True, folder=tmp_path / "new")
    measured = len(calls)
    assert measured > 20
    second = with_latency(wide(), timer=timer, cache=True, folder=tmp_path / "new")
    assert len(calls) == measured
    keep = torch.arange(len(wide())) % 3 > 0
    assert first.exact(keep) == second.exact(keep)
    assert not list((tmp_path / "new").glob(".*"))  # nothing unfinished


@pytest.mark.parametrize("content", ["", "{", "[]", '{"machine": "a", "seconds": {"k": "x"}}'])
def test_an_unreadable_cache_is_measured_anew(content: str, tmp_path: Path) -> None:
    path = TimeCache("a", tmp_path).path
    assert path is not None
    path.write_text(content)
    cache = TimeCache("a", tmp_path)
    assert cache.get("k") is None
    cache.put("k", 0.5)
    cache.write()
    assert TimeCache("a", tmp_path).get("k") == 0.5
    assert json.loads(path.read_text())["machine"] == "a"
    assert TimeCache("b", tmp_path).get("k") is None  # another machine


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = TimeCache("a", tmp_path / "file")
    cache.put("k", 0.5)
    cache.write()
    assert cache.get("k") == 0.5


# -- the resource ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (NAME, 0.05),
        ("SuDORMRFImprovedNet", 0.05),
        ("DPRNNTasNet-LSTM-bi", 0.05),
        ("DPTNet", 0.2),  # attention cannot be run on its own: its time is left to the fit
    ],
)
def test_latency_is_predicted_from_the_layers(name: str, error: float) -> None:
    gates = gated(name)
    resource = with_latency(gates)
    everything = torch.ones(len(gates), dtype=torch.bool)
    assert resource.exact(everything) == pytest.approx(resource.dense)
    assert float(resource.expected(everything.double())) == pytest.approx(resource.dense, rel=0.01)
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        keep = torch.rand(len(gates), generator=generator) < 0.6
        keep[[g.start for g in gates.groups]] = True
        assert resource.exact(keep) == pytest.approx(resource.measure(keep), rel=error)
    few = torch.zeros(len(gates), dtype=torch.bool)
    few[[g.start for g in gates.groups]] = True
    assert resource.exact(few) < 0.97 * resource.dense  # it does see what is closed


def test_expected_latency_falls_with_every_group() -> None:
    gates = gated()
    resource = with_latency(gates)
    probability = torch.full((len(gates),), 0.7, dtype=torch.float64, requires_grad=True)
    resource.expected(probability).backward()
    assert probability.grad is not None and bool((probability.grad >= 0).all())
    for group in gates.groups:
        assert float(probability.grad[group.gates].sum()) > 0, group.name


@pytest.mark.parametrize("bias", [1.0, 1.3, 0.75])
def test_a_latency_budget_is_met_by_measurement(bias: float) -> None:
    """Also where the prediction is wrong: the final masks are measured."""
    gates = gated()
    resource = with_latency(gates)
    resource.dense, resource._weights = resource.dense, resource._weights * bias
    budget = Budget(latency=0.8)
    gates.load_masks(masks_for(gates, budget))
    cost = resource.measured(gates.keep) / resource.dense
    assert cost <= 0.8
    assert cost >= 0.8 * (1 - LatencyResource.tolerance)


def test_learning_under_a_latency_budget_ends_within_it() -> None:
    gates = gated("SuDORMRFImprovedNet")
    resource = with_latency(gates)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(1, 640, generator=generator), torch.randn(1, 2, 640, generator=generator)
    found = learn_gates(
        gates, [batch], budget=Budget(latency=0.85), steps=8, progress=False, round_to=2
    )
    assert found.spent["latency"].cost <= 0.85 * resource.dense
    for group, mask in zip(gates.groups, gates.masks().values(), strict=True):
        assert int(mask.sum()) % 2 == 0 or int(mask.sum()) == group.size


# -- every architecture ---------------------------------------------------------------------------


def every(count: int) -> list[tuple[str, int]]:
    """Architectures with the numbers of their random budgets."""
    names = list(SEPARATORS)
    return [(names[number % len(names)], number) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "number"),
    [pytest.param(*one, marks=[] if one[1] % 4 == 0 else [pytest.mark.slow]) for one in every(100)],
)
def test_random_latency_budgets_are_met_on_every_architecture(name: str, number: int) -> None:
    """None is exceeded; none is missed by more than the tolerance or what whole channels allow."""
    model = randomised(SEPARATORS[name], 0, torch.float32)
    gates = GateSet(model, example_of(name))
    gates.scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(number))
    resource = with_latency(gates)
    least = resource.measured(smallest(gates.groups)) / resource.dense
    share = random.Random(number).uniform(least + 0.005, 1)
    gates.load_masks(masks_for(gates, Budget(latency=share)))
    spent = resource.measured(gates.keep) / resource.dense
    assert spent <= share
    if spent >= share * (1 - LatencyResource.tolerance):
        return
    more = []
    for group in gates.groups:
        closed = (~gates.keep[group.gates]).nonzero()
        if len(closed):
            keep = gates.keep.clone()
            keep[group.start + int(closed[0])] = True
            more.append(resource.measured(keep) / resource.dense)
    assert min(more) > share


# -- widths that the machine likes ----------------------------------------------------------------


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 64, 4), nn.Conv1d(64, 64, 1)
        self.last = nn.Conv1d(64, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.second(self.first(x.unsqueeze(1)).relu()).relu())
        return y


@pytest.mark.parametrize("liked", [1, 4, 8, 16])
def test_auto_finds_the_step_that_a_machine_likes(liked: int) -> None:
    def timer(layer: nn.Module, x: Tensor) -> float:
        rule: Any = rule_of(layer)
        up = [-(-n // liked) * liked for n in (rule.n_in(layer), rule.n_out(layer))]
        return 1e-6 * up[0] * up[1]

    gates = GateSet(Wide().eval(), torch.randn(1, 64), scope="all")
    resource = with_latency(gates, timer=timer)
    assert set(resource.steps(gates.groups).values()) == {liked}
    gates.learned = True
    gates.scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(0))
    gates.load_masks({g.name: torch.arange(g.size) < 43 for g in gates.groups})
    model = gates.model
    importance = SepPruneImportance(gates)
    SepPrunePruner(model, torch.randn(1, 64), importance, round_to="auto").step()
    assert model.first.out_channels == model.second.out_channels == 43 // liked * liked


def test_rounding_closes_the_lowest_scores() -> None:
    gates = GateSet(Wide().eval(), torch.randn(1, 64), scope="all")
    gates.scores = torch.arange(len(gates)).float()
    gates.load_masks({g.name: torch.arange(g.size) >= 20 for g in gates.groups})
    weight = gates.model.second.weight.detach().clone()
    SepPrunePruner(gates.model, torch.randn(1, 64), SepPruneImportance(gates), round_to=16).step()
    assert torch.equal(gates.model.second.weight, weight[32:, 32:])


@pytest.mark.parametrize("round_to", [0, "best"])
def test_a_rounding_that_means_nothing_is_refused(round_to: Any) -> None:
    gates = GateSet(Wide().eval(), torch.randn(1, 64), scope="all")
    gates.load_masks({g.name: torch.arange(g.size) < 30 for g in gates.groups})
    with pytest.raises(SepPruneError, match="round_to"):
        SepPrunePruner(
            gates.model, torch.randn(1, 64), SepPruneImportance(gates), round_to=round_to
        )


# -- real measurements, without looking at them ---------------------------------------------------


def test_real_clocks_run() -> None:
    gates = gated()
    x = example()
    small = pruned_copy(gates, torch.arange(len(gates)) % 2 == 0)
    turns = compare_runs(gates.model, small, x, seconds=0.01, least=2)
    assert turns.best <= turns.median and turns.ratio > 0
    assert time_call(nn.Conv1d(1, 4, 3), torch.randn(1, 1, 64)) > 0


def test_streaming_says_what_a_chunk_costs() -> None:
    model = gated().model
    found = compare_streaming({"one": model, "two": model}, 0.1, 1000, context=0.5, runs=2)
    one = found["one"]
    assert one.ratio == 1 and one.delay_ms == pytest.approx(100 + one.compute_ms)
    assert one.load == pytest.approx(one.compute_ms / 100)
    with pytest.raises(SepPruneError, match="chunk"):
        compare_streaming({"one": model}, 0)
