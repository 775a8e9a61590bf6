"""Gates by themselves: on what they act, and when they refuse to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_nets import TIME, Net
from torch import Tensor, nn

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner
from sepprune_tp.errors import InputError
from sepprune_tp.layers import register_rule
from sepprune_tp.layers.base import Count
from sepprune_tp.layers.norm import BatchNormRule


def gated() -> tuple[Net, GateSet]:
    net = Net(lambda n, x: n.make(x).relu()).eval()
    return net, GateSet(net, torch.randn(1, 1, TIME), scope="all")


def test_gates_of_a_model_that_was_pruned_since_are_refused() -> None:
    net, gates = gated()
    with gates:  # the control: they are its own
        net(torch.randn(1, 1, TIME))
    gates.load_masks({group.name: torch.arange(group.size) < 4 for group in gates.groups})
    SepPrunePruner(net, torch.randn(1, 1, TIME), importance=SepPruneImportance(gates)).step()
    with (
        pytest.raises(InputError, match=r"'read' has 4 channels, its gates were made for 8"),
        gates,
    ):
        raise AssertionError("they took it")
    assert net(torch.randn(1, 1, TIME)).shape == (1, 1, TIME)  # and it is left alone


class ByHand(nn.Module):
    """Attention whose queries and keys meet in a product that no layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 12) for _ in range(3))
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        met = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.out(met @ self.value(x))


def test_what_can_be_cut_has_gates_in_products_too() -> None:
    gates = GateSet(ByHand(), torch.randn(1, 6, 4), scope="all")
    assert [name for name, _ in gates.graph.named_groups()] == ["query", "value"]
    assert [group.name for group in gates.groups] == ["query", "value"]


def test_channels_without_a_gate_score_infinity_and_stay() -> None:
    net = Net(lambda n, x: n.norm(torch.cat([x, n.make(x)], 1)), read=9, norm=nn.BatchNorm1d(9))
    gates = GateSet(net.eval(), torch.randn(1, 1, TIME), scope="all")
    assert [(group.name, group.size) for group in gates.groups] == [("make", 8)]
    gates.load_masks({"make": torch.arange(8) > 2})
    gates.scores = torch.arange(8.0)
    table = gates.output_table()
    assert table["make"][0].tolist() == list(range(8))
    assert table["norm"][0].tolist() == [float("inf"), *range(8)]  # the input's channel stays
    assert table["norm"][1].tolist() == [True, *[False] * 3, *[True] * 5]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"nobody": torch.ones(8) > 0}, "no gated group is called 'nobody'; the groups are make"),
        ({"make": torch.ones(7) > 0}, r"has shape \(7,\), it must be \(8,\)"),
        ({"make": torch.zeros(8) > 0}, "closes all 8 channels"),
    ],
)
def test_masks_that_cannot_be_are_refused(masks: dict[str, Tensor], message: str) -> None:
    _, gates = gated()
    with pytest.raises(InputError, match=message):
        gates.load_masks(masks)
    assert bool(gates.keep.all())  # nothing was taken over
    gates.load_masks({"make": torch.eye(8)[0] > 0})
    assert gates.keep.tolist() == [True, *[False] * 7]


def test_gates_are_sampled_in_training_and_masks_in_evaluation() -> None:
    net, gates = gated()
    x = torch.randn(1, 1, TIME)
    gates.load_masks({"make": torch.arange(8) > 2})
    with gates, torch.no_grad():
        assert torch.equal(net(x), net(x))
        kept = net.eval()(x)
        net.train()
        gates.scores = torch.zeros(8)
        drawn = [net(x) for _ in range(8)]
        net.eval()
        assert torch.equal(net(x), kept)
    assert any(not torch.equal(one, drawn[0]) for one in drawn)


class Own(nn.BatchNorm1d):
    """A layer of a user's, with a rule of a user's."""


class OwnRule(BatchNormRule):
    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_in + n_out  # of a layer that keeps channels apart, both are those that are left


def test_the_cost_of_a_layer_that_keeps_channels_apart_may_be_told_by_its_inputs() -> None:
    register_rule(OwnRule(), Own)
    net = Net(lambda n, x: n.norm(n.make(x)), norm=Own(8)).eval()
    gates = GateSet(net, torch.randn(1, 1, TIME), scope="all")
    gates.load_masks({"make": torch.arange(8) > 2})
    cost = gates.cost()
    SepPrunePruner(net, torch.randn(1, 1, TIME), importance=SepPruneImportance(gates)).step()
    left = [net.make, net.norm, net.read]
    assert cost.params - sum(p.numel() for p in net.other.parameters()) == sum(
        p.numel() for layer in left for p in layer.parameters()
    )
