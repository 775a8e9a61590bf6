"""Cutting groups out of a model keeps model, graph and history true."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch_pruning as tp
from small_nets import COUPLING, PROTECTED, TIME, Net, coupled, cutter, graph_of, runs, sizes

from sepprune_tp.errors import GraphError


def test_protected_channels_are_refused_with_the_reason() -> None:
    net = PROTECTED["slice"][0]
    with pytest.raises(
        GraphError, match=r"channels \[0, 1\] of 'make' may not go: channels are cut"
    ):
        cutter(graph_of(net), net.make, [0, 1])
    with pytest.raises(GraphError, match="not in the channel graph: it did not run"):
        cutter(graph_of(net), net.other, [0])


def test_channels_of_several_groups_go_together() -> None:
    net = copy.deepcopy(COUPLING["cat"][0])
    graph = graph_of(net)
    group = graph.get_pruning_group(net.read, tp.prune_conv_in_channels, [9, 12])
    assert group[0].dep.target.module is net.other and group[0].idxs == [1, 4]
    both = graph.get_pruning_group(net.read, tp.prune_conv_in_channels, [1, 9, 12])
    assert graph.check_pruning_group(both)
    expected = net.read.weight[:, [i for i in range(16) if i not in (1, 9, 12)]]
    both.prune()
    assert torch.equal(net.read.weight, expected)
    assert (net.make.out_channels, net.other.out_channels) == (7, 6)
    assert runs(net).shape == (1, 1, TIME)
    assert not graph.check_pruning_group(
        graph.get_pruning_group(net.read, tp.prune_conv_in_channels, list(range(8)))
    )
    with pytest.raises(GraphError, match="make a new group"):
        graph.get_pruning_group(net.read, tp.prune_conv_in_channels, [1, 9]).prune([0])


def test_channels_that_no_layer_made_do_not_go() -> None:
    net = Net(lambda n, x: torch.cat([n.make(x), x], 1), read=9)
    with pytest.raises(GraphError, match="not all of them"):
        graph_of(net).get_pruning_group(net.read, tp.prune_conv_in_channels, [1, 8])


def test_model_changed_outside_the_graph() -> None:
    net = copy.deepcopy(COUPLING["chain"][0])
    graph = graph_of(net)
    group = cutter(graph, net.make, [0])
    tp.prune_conv_out_channels(net.make, [1])
    tp.prune_conv_in_channels(net.read, [1])
    with pytest.raises(GraphError, match=r"'make' has 7 channels, the graph knows 8.*new\s+graph"):
        group.prune()
    assert net.read.in_channels == 7  # nothing was cut half


def test_pruning_twice_keeps_the_graph_true() -> None:
    net = copy.deepcopy(COUPLING["cat"][0])
    weight = net.read.weight.detach().clone()
    graph = graph_of(net)
    cutter(graph, net.other, [0, 3]).prune()
    cutter(graph, net.make, [7]).prune()
    cutter(graph, net.other, [5]).prune()  # the 8th of the original
    kept = [*range(7), 8 + 1, 8 + 2, 8 + 4, 8 + 5, 8 + 6]
    assert torch.equal(net.read.weight, weight[:, kept])
    assert sizes(graph) == {"make": 7, "other": 5} == sizes(graph_of(net))
    assert coupled(graph, "other", 4) == coupled(graph_of(net), "other", 4)
    assert runs(net).shape == (1, 1, TIME)


def test_a_group_with_other_indices() -> None:
    net = copy.deepcopy(COUPLING["chain"][0])
    ((_, group),) = graph_of(net).named_groups()
    group.prune(idxs=[2, 4])
    assert net.make.out_channels == net.read.in_channels == 6


def test_last_channel_is_not_for_the_taking() -> None:
    net = COUPLING["chain"][0]
    graph = graph_of(net)
    assert graph.check_pruning_group(cutter(graph, net.make, list(range(7))))
    assert not graph.check_pruning_group(cutter(graph, net.make, list(range(8))))


@pytest.mark.parametrize("name", ["cat", "glu", "shuffle", "norm and slopes", "a bare parameter"])
def test_history_prunes_a_twin_alike(name: str) -> None:
    net = COUPLING[name][0]
    one, twin = copy.deepcopy(net), copy.deepcopy(net)
    graph = graph_of(one)
    for root in list(sizes(graph)):
        cutter(graph, one.get_submodule(root), [1]).prune()
        cutter(graph, one.get_submodule(root), [0]).prune()
    history = json.loads(json.dumps(graph.pruning_history()))
    assert len(history) == 2 * len(sizes(graph))
    graph_of(twin).load_pruning_history(history)
    for (key, value), other in zip(
        one.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key


def test_flags_and_gradients_are_kept() -> None:
    net = copy.deepcopy(COUPLING["norm and slopes"][0])
    net.make.weight.requires_grad_(False)
    runs_with_gradient = net(torch.randn(2, 1, TIME)).sum()
    runs_with_gradient.backward()
    gradient = net.read.weight.grad.clone()
    graph = graph_of(net)
    cutter(graph, net.make, [3]).prune()
    assert not net.make.weight.requires_grad and net.make.bias.requires_grad
    assert torch.equal(net.read.weight.grad, gradient[:, [0, 1, 2, 4, 5, 6, 7]])
    assert {k: p.requires_grad for k, p in net.named_parameters()}["read.weight"]
