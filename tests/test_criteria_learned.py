"""Criteria that learn gates: ours, the paper's, UDSP's and those that were tried."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from criteria_cases import SMALL, UNLIMITED, X, chosen, dense, drawn, same, search_of, share

from benchmarks.criteria import Batch, OptionError
from benchmarks.criteria.hyper_network import excess, gumbel_sigmoid, seeded
from benchmarks.criteria.published_gates import PublishedGates
from benchmarks.criteria.rules import RULES
from sepprune_tp import GateSet


@pytest.mark.parametrize("model", SMALL)
def test_published_gates_count_closed_channels_in_norms(model: str) -> None:
    network = dense(model)
    masks = {group.name: torch.arange(group.size) % 2 == 0 for group in GateSet(network, X).groups}
    mixture = drawn(0)(1, 1)[0][0]
    outputs = []
    for made in (GateSet, PublishedGates):
        gates = made(network, X)
        with gates, torch.no_grad():
            outputs.append(network(mixture))
        with torch.no_grad():
            torch.testing.assert_close(outputs[-1], network(mixture))  # all open: the model itself
        gates.load_masks(masks)
        with gates, torch.no_grad():
            outputs.append(network(mixture))
    exact, published = outputs[1], outputs[3]
    assert (exact - published).abs().max() > 1e-3 * exact.abs().max()


def test_published_gates_multiply_what_readers_see() -> None:
    network = dense("ConvTasNet")
    gates = PublishedGates(network, X)
    group = next(g for g in gates.groups if "TCN.0" in g.name)
    keep = torch.arange(group.size) % 3 == 0
    block: Any = network.get_submodule(group.name.rpartition(".")[0])
    last = [m for m in block.modules() if hasattr(m, "gamma")][-1]
    hook = last.register_forward_hook(lambda m, a, y: y * keep.to(y)[:, None])
    mixture = drawn(0)(1, 1)[0][0]
    with torch.no_grad():
        expected = network(mixture)
        hook.remove()
        gates.load_masks({group.name: keep})
        with gates:
            torch.testing.assert_close(network(mixture), expected)


def test_published_gates_are_searched() -> None:
    exact = chosen("paper", search_of()).masks
    published = chosen("paper", search_of(), gates="published").masks
    assert share("ConvTasNet", published) <= 0.5
    assert not same(exact, published)


def test_threshold_sets_what_a_sample_keeps() -> None:
    shares = [
        chosen(UNLIMITED, search_of(), epsilon=e, steps=1).details["macs_share"] for e in (0.5, 0.9)
    ]
    assert shares[0] > shares[1]


@pytest.mark.parametrize(
    "options",
    [{"distill": "waveform"}, {"distill": "features"}, {"kind": "gumbel"}],
)
def test_options_of_our_search(options: dict[str, Any]) -> None:
    assert share("ConvTasNet", chosen("sepprune", search_of(), **options).masks) <= 0.5


def test_a_family_is_nested() -> None:
    small, large = (chosen("sepprune/family", search_of(budget=b)).masks for b in (0.4, 0.7))
    assert all(bool((large[name] >= small[name]).all()) for name in small)
    assert share("ConvTasNet", small) < share("ConvTasNet", large)


def test_joint_with_our_gates() -> None:
    search = search_of()
    masks = chosen("joint", search, kind="budget").masks
    assert share("ConvTasNet", masks) <= 0.5
    before = dense("ConvTasNet").state_dict()
    still = [k for k, v in search.model.state_dict().items() if torch.equal(before[k], v)]
    assert all(name.startswith("masker.TCN.2.res_conv") for name in still)  # nobody reads it


def test_hyper_network_opens_all_gates_and_learns_to_close_them() -> None:
    static, dynamic = seeded(0, [40, 60])
    generator = torch.Generator().manual_seed(0)
    assert static().shape == (100,)
    assert dynamic(torch.randn(1, 800)).shape == (100,)
    assert gumbel_sigmoid(static(), generator).mean() > 0.9
    optimizer = torch.optim.Adam(static.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        excess(gumbel_sigmoid(static(), generator).sum(), 50.0).backward()
        optimizer.step()
    with torch.no_grad():
        assert gumbel_sigmoid(static(), generator).mean() < 0.7
    assert excess(torch.tensor(40.0), 50.0) == 0
    assert float(excess(torch.tensor(100.0), 50.0)) == pytest.approx(3.0103, abs=1e-3)


def test_frozen_and_trained_weights_are_two_searches() -> None:
    trained, frozen = (chosen("UDSP", search_of(), weights=w) for w in ("trained", "frozen"))
    assert trained.details["thresholded macs_share"] > 0.9  # four steps close nothing yet
    assert share("ConvTasNet", frozen.masks) <= 0.5


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_of_learning_meets_the_budget(rule: str) -> None:
    search = search_of()
    options = {"rule": rule, "start": "magnitude", "loss": "task + features"}
    masks = chosen("learned", search, **options).masks
    assert 0.3 < share("ConvTasNet", masks) <= 0.5
    other = {**options, "start": "zero", "loss": "waveform"}
    assert not same(masks, chosen("learned", search_of(), **other).masks)


def test_weights_that_learn_along_are_put_back() -> None:
    frozen, along = search_of(), search_of()
    before = copy.deepcopy(along.model.state_dict())
    masks = chosen("learned", along, weights_lr=0.01).masks
    assert share("ConvTasNet", masks) <= 0.5
    assert not same(masks, chosen("learned", frozen).masks)  # they did learn
    for name, value in along.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.requires_grad and p.grad is None for p in along.model.parameters())
    with pytest.raises(OptionError, match="weights_lr"):
        chosen("learned", search_of(), weights_lr=0.01, loss="waveform")


def test_rounded_widths_are_those_that_run_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def steps(gates: GateSet, round_to: Any) -> Any:
        asked.append(round_to)
        return 4 if round_to == "auto" else 1

    monkeypatch.setattr("sepprune_tp.search.steps.steps_for", steps)
    search = search_of()
    masks = chosen("sepprune", search, rounded=True).masks
    assert asked == ["auto"] and share("ConvTasNet", masks) <= 0.5
    assert all(int(mask.sum()) % 4 == 0 or bool(mask.all()) for mask in masks.values())
    plain = chosen("sepprune", search_of()).masks
    assert asked == ["auto", 1] and any(int(mask.sum()) % 4 for mask in plain.values())


def test_two_devices_choose_what_one_chooses() -> None:
    pytest.importorskip("lightning", reason="several devices need the extra 'train'")
    search = search_of()
    search.model.double()
    search = replace(search, example=X.double(), batches=doubled(search.batches))
    both = replace(search, devices=2)
    assert same(chosen("sepprune", search, batch=2).masks, chosen("sepprune", both, batch=2).masks)
    with pytest.raises(OptionError, match="several devices"):
        chosen("sepprune", both, distill="waveform")


def doubled(batches: Callable[[int, int], list[Batch]]) -> Callable[[int, int], list[Batch]]:
    return lambda steps, size: [(x.double(), s.double()) for x, s in batches(steps, size)]
