"""How a graph is built and asked: inputs of all forms, ignored layers, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning as tp
from small_nets import COUPLING, TIME, Net, cutter, graph_of, sizes
from torch import Tensor, nn

from sepprune_tp.errors import GraphError, InputError
from sepprune_tp.graph import ChannelGraph, ChannelGroup


class Two(nn.Module):
    """Two inputs, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(1, 6, 1), nn.Conv1d(1, 6, 1)
        self.head = nn.Conv1d(6, 2, 1)

    def forward(self, left: Tensor, right: Tensor, flag: bool = True) -> dict[str, Tensor]:
        hidden = self.left(left) + self.right(right)
        return (
            {"y": self.head(hidden), "gain": hidden.mean(-1)} if flag else {"y": self.head(hidden)}
        )


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "forward_fn", "output_transform"])
def test_inputs_of_every_form(kind: str) -> None:
    x, model = torch.randn(1, 1, TIME), Two()
    examples: dict[str, Any] = {
        "tuple": (x, x, False),
        "list": [x, x, False],
        "dict": {"left": x, "right": x, "flag": False},
        "forward_fn": {"both": x},
        "output_transform": (x, x),
    }
    options: dict[str, Any] = {
        "forward_fn": {"forward_fn": lambda m, e: m(e["both"], e["both"], flag=False)},
        "output_transform": {"output_transform": lambda output: output["y"]},
    }.get(kind, {})
    graph = ChannelGraph("all").build_dependency(model, examples[kind], **options)
    assert sizes(graph) == {"left": 6}
    whole = ChannelGraph("all").build_dependency(model, (x, x))
    assert sizes(whole) == {}  # a control: here the hidden channels are an output
    assert whole.protected["left"] == "it is an output of the model"


def test_ignored_layers() -> None:
    net = COUPLING["cat"][0]
    graph = graph_of(net)
    assert [g[0].dep.target.module for g in graph.get_all_groups()] == [net.make, net.other]
    left = list(graph.get_all_groups(ignored_layers=[net.make]))
    assert [g[0].dep.target.module for g in left] == [net.other]
    at_build = graph_of(net, ignored_layers=[net.other])
    assert [g[0].dep.target.module for g in at_build.get_all_groups()] == [net.make]
    assert len(list(graph_of(net).get_all_groups())) == 2  # not remembered between graphs
    assert not list(graph.get_all_groups(root_module_types=[nn.Linear]))


def test_ignored_at_build_time_is_protected() -> None:
    net = COUPLING["cat"][0]
    graph = graph_of(net, ignored_layers=[net.other])
    assert sizes(graph) == {"make": 8} and graph.protected["other"] == "'other' is to be ignored"
    with pytest.raises(GraphError, match="may not go: 'other' is to be ignored"):
        cutter(graph, net.other, [0])
    net = COUPLING["a bare parameter"][0]
    assert sizes(graph_of(net)) == {"make": 8}
    assert graph_of(net, ignored_params=[net.gain]).protected["make"] == "'gain' is to be ignored"


def test_groups_are_torch_prunings() -> None:
    net = COUPLING["norm and slopes"][0]
    (group,) = graph_of(net).get_all_groups()
    assert isinstance(group, tp.Group) and isinstance(group, ChannelGroup)
    assert group[0].dep.target.module is net.make and group[0].idxs == list(range(8))
    assert all(item.root_idxs == list(range(8)) for item in group)
    assert "make" in str(group)
    scores = tp.importance.GroupMagnitudeImportance()(group)
    assert scores.shape == (8,)


def test_training_mode_statistics_and_hooks_are_left_alone() -> None:
    net = copy.deepcopy(COUPLING["norm and slopes"][0])
    net.train()
    net.norm.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.enable_grad():
        graph_of(net)
    assert modes == {name: module.training for name, module in net.named_modules()}
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks and "forward" not in module.__dict__
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    y = net(torch.randn(2, 1, TIME))  # and autograd works as ever
    y.sum().backward()
    assert net.make.weight.grad is not None


def test_hooks_go_also_when_the_model_fails() -> None:
    net = Net(lambda n, x: n.make(x).view(3, -1))
    with pytest.raises(GraphError, match=r"did not run on the example input of shape \(1, 1, 16\)"):
        graph_of(net)
    assert not net.make._forward_hooks and not net.make._forward_pre_hooks and net.training


def test_wrong_scope_and_model() -> None:
    net = COUPLING["add"][0]
    with pytest.raises(InputError, match="must be 'separator', 'all' or a list of modules"):
        ChannelGraph("mask")
    with pytest.raises(InputError, match="has no masker: none of its attributes is called"):
        graph_of(net, scope="separator")
    with pytest.raises(InputError, match="lists a Linear that is not part of Net"):
        graph_of(net, scope=[nn.Linear(2, 2)])
