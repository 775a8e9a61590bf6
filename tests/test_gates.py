"""Gates by themselves: on what they act, and when they refuse to."""

from __future__ import annotations

import pytest
import torch
from small_nets import TIME, Net

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner
from sepprune_tp.errors import InputError


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
