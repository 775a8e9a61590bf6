"""The channel graph: which channels go together, which may not go, and why."""

from __future__ import annotations

import copy

import pytest
import torch
from laws import far, keep_by, pruned_copy
from small_nets import (
    COUPLING,
    POOLING,
    PROTECTED,
    TIME,
    Net,
    coupled,
    graph_of,
    halve,
    runs,
    sizes,
)
from torch import nn

from sepprune_tp.gates import GateSet


@pytest.mark.parametrize("name", COUPLING)
def test_what_goes_together(name: str) -> None:
    net, expected = COUPLING[name]
    graph = graph_of(net)
    assert sizes(graph) == expected, graph.protected
    before = sum(p.numel() for p in net.parameters())
    small = halve(net)
    assert runs(small).shape[:2] == runs(net).shape[:2]
    assert sum(p.numel() for p in small.parameters()) < before


def test_concatenated_channels_follow_their_own_layer() -> None:
    graph = graph_of(COUPLING["cat"][0])
    assert coupled(graph, "make", 2) == {("make", "out"): [2], ("read", "in"): [2]}
    assert coupled(graph, "other", 2) == {("other", "out"): [2], ("read", "in"): [10]}


def test_shuffled_channels_are_found_where_they_went() -> None:
    """(2, 4) -> (4, 2): channel 1 is read at 2, its partner 5 at 3; both parts shrink alike."""
    found = coupled(graph_of(COUPLING["shuffle"][0]), "make", 1)
    assert found == {("make", "out"): [1, 5], ("read", "in"): [2, 3]}


def test_a_layer_that_runs_twice_ties_its_inputs_and_outputs() -> None:
    found = coupled(graph_of(COUPLING["twice"][0]), "make", 4)
    assert found["mix", "in"] == found["mix", "out"] == found["make", "out"] == [4]


@pytest.mark.parametrize("name", COUPLING)
def test_closed_channels_change_nothing_else(name: str) -> None:
    """Removing channels that are exactly zero everywhere leaves the output as it was."""
    net = copy.deepcopy(COUPLING[name][0])
    graph = graph_of(net)
    removed = {}
    with torch.no_grad():
        for root, group in graph.named_groups():
            cut = group.channel_set.components[0]
            for site in group.channel_set.sites:
                where = (site.components == cut).nonzero().flatten()
                if site.side == "in":  # nobody reads it
                    site.owner.weight[:, where] = 0
                elif isinstance(site.owner, nn.GroupNorm):
                    return  # the statistics count it; the gates' tests are about that
            removed[root] = group[0].idxs[0]
        x = torch.randn(1, 1, TIME)
        before = net(x)
        for root, index in removed.items():
            layer = net.get_submodule(root)
            handler = graph.get_pruner_of_module(layer).prune_out_channels
            graph.get_pruning_group(layer, handler, [index]).prune()
        assert torch.allclose(net(x), before, atol=1e-6)


@pytest.mark.parametrize("name", PROTECTED)
def test_what_may_not_go_says_why(name: str) -> None:
    net, why = PROTECTED[name]
    graph = graph_of(net)
    assert "make" not in sizes(graph)
    assert why in graph.protected["make"]
    assert runs(halve(net)).shape == runs(net).shape


@pytest.mark.parametrize("name", ["slice", "gram matrix", "qr"])
def test_reasons_give_the_place_in_the_code(name: str) -> None:
    assert "small_nets.py:" in graph_of(PROTECTED[name][0]).protected["make"]


@pytest.mark.parametrize("name", POOLING)
def test_what_pools_over_channels_counts_those_that_are_left(name: str) -> None:
    net = copy.deepcopy(POOLING[name]).double().eval()
    assert sizes(graph_of(copy.deepcopy(net).float())) == {"make": 8}
    x = torch.randn(2, 1, TIME, generator=torch.Generator().manual_seed(1)).double()
    gates = GateSet(net, x, scope="all")
    for rule in ("half", "odd"):
        gates.load_masks(keep_by(gates, rule))
        with torch.no_grad(), gates:
            masked = net(x)
        with torch.no_grad():
            assert far(pruned_copy(gates, x)(x), masked) < 1e-10 < 1e-3 < far(net(x), masked)


def test_weights_that_two_layers_share_stay_one() -> None:
    net = Net(lambda n, x: n.two(n.one(n.make(x))), one=nn.Conv1d(8, 8, 1), two=nn.Conv1d(8, 8, 1))
    net.two.weight = net.one.weight
    assert sizes(graph_of(net)) == {"make": 8}
    found = coupled(graph_of(net), "make", 3)
    assert found == {(n, s): [3] for n in ("one", "two") for s in ("in", "out")} | {
        ("make", "out"): [3],
        ("read", "in"): [3],
    }
    pruned = halve(net)
    assert pruned.two.weight is pruned.one.weight and pruned.one.weight.shape == (7, 7, 1)


def test_weights_shared_with_a_recurrent_layer_stay() -> None:
    net = Net(
        lambda n, x: n.one(n.rnn(n.make(x).transpose(1, 2))[0]).transpose(1, 2),
        rnn=nn.GRU(8, 8, batch_first=True),
        one=nn.Linear(8, 24),
        read=24,
    )
    net.one.weight = net.rnn.weight_ih_l0
    graph = graph_of(net)
    assert sizes(graph) == {}
    assert "its weights are shared with another layer" in graph.protected["make"]


def test_grouped_convolutions_shrink_by_whole_groups() -> None:
    net = Net(lambda n, x: n.mix(n.make(x)), mix=nn.Conv1d(8, 8, 1, groups=2))
    graph = graph_of(net)
    assert sizes(graph) == {"make": 4, "mix": 4}
    assert coupled(graph, "make", 1) == {("make", "out"): [1, 5], ("mix", "in"): [1, 5]}
    assert halve(net).mix.groups == 2


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [True, False])
def test_recurrent_units_are_read_once_for_each_direction(
    cls: type[nn.RNNBase], both: bool
) -> None:
    rnn = cls(8, 5, num_layers=2, bidirectional=both, batch_first=True)
    read = 10 if both else 5
    net = Net(lambda n, x: n.rnn(n.make(x).transpose(1, 2))[0].transpose(1, 2), read=read, rnn=rnn)
    graph = graph_of(net)
    assert sizes(graph) == {"make": 8, "rnn": 5}
    reads = [2, 7] if both else [2]
    assert coupled(graph, "rnn", 2) == {("rnn", "out"): [2], ("read", "in"): reads}
