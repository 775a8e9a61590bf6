"""torch-pruning's own pruners, verbatim, with our importance and with theirs."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import SEPARATORS, PlainConv
from laws import TIME, example
from pruning import X, answers, assert_runs, built, params, widths, with_scores

from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, channel_graph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.profile import profile
from sepprune_tp.pruner import install


@pytest.mark.parametrize("scope", ["separator", "all"])
@pytest.mark.parametrize("name", SEPARATORS)
def test_meta_pruner_verbatim(name: str, scope: str) -> None:
    model, x = built(name), example(name)
    gates = with_scores(model, scope, x=x)
    shapes, before, cost = answers(model, name), widths(model), profile(model, x)
    pruner = tp.pruner.MetaPruner(
        model,
        x,
        importance=SepPruneImportance(gates),
        global_pruning=True,
        pruning_ratio=0.4,
    )
    assert type(pruner.DG) is ChannelGraph and pruner.DG.scope == scope
    pruner.step()
    assert answers(model, name) == shapes
    after = widths(model)
    assert all(after[n] <= before[n] for n in before) and after != before
    assert profile(model, x).macs < cost.macs
    groups = {g.name: g.size for g in gates.groups}
    left = {
        n: g.channel_set.size
        for n, g in ChannelGraph(scope).build_dependency(model, x).named_groups()
    }
    removed = sum(groups.values()) - sum(left.get(n, 1) for n in groups)
    assert 0 < removed <= round(0.4 * sum(groups.values())) + 1


def test_lowest_scores_go_everywhere_at_once() -> None:
    model = built("ConvTasNet-gLN")
    gates = with_scores(model)
    count = len(gates)
    dense = copy.deepcopy(model)
    tp.pruner.MetaPruner(
        model, X, importance=SepPruneImportance(gates), global_pruning=True, pruning_ratio=0.5
    ).step()
    limit = count - int(0.5 * count)  # torch-pruning's rounding
    for group in gates.groups:
        kept = gates.scores[group.gates] >= limit
        weight = model.get_submodule(group.name).weight
        assert torch.equal(weight.shape[:1].numel() * torch.ones(1), kept.sum() * torch.ones(1))
        before = dense.get_submodule(group.name).weight[kept]
        if group.name == "masker.bottleneck.1":
            assert torch.equal(weight, before)  # its inputs are out of scope


@pytest.mark.parametrize("cls", [tp.pruner.GroupNormPruner, tp.pruner.BNScalePruner])
def test_other_pruners_of_torch_pruning_take_our_importance(cls: Any) -> None:
    model = built("ConvTasNet-bN")
    pruner = cls(model, X, importance=SepPruneImportance(with_scores(model)), pruning_ratio=0.3)
    assert type(pruner.DG) is ChannelGraph
    pruner.step()
    assert_runs(model, torch.Size((1, 2, TIME)))


def test_import_changes_nothing_for_other_importances() -> None:
    """Same graph class, same defaults, same widths and weights as where we were never imported."""
    script = """
import hashlib, json, sys, torch, torch_pruning as tp
from torch import nn
if sys.argv[1] == "with":
    import sepprune_tp
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
                    nn.ReLU(), nn.Conv2d(12, 4, 1))
pruner = tp.pruner.MetaPruner(net, torch.randn(1, 3, 8, 8), tp.importance.MagnitudeImportance(),
                              pruning_ratio=0.5, ignored_layers=[net[5]])
assert type(pruner.DG) is tp.DependencyGraph, type(pruner.DG)
pruner.step()
bits = b"".join(p.detach().numpy().tobytes() for p in net.parameters())
print(json.dumps([str(net), hashlib.sha256(bits).hexdigest(), pruner.pruning_history()]))
"""
    results = []
    for way in ("with", "without"):
        command = [sys.executable, "-c", script, way]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert results[0] == results[1]
    assert "Conv2d(3, 4" in results[0][0]


def test_stock_pruners_beside_ours() -> None:
    net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 1, 3))
    x, magnitude = torch.randn(1, 1, 16), tp.importance.MagnitudeImportance()
    with channel_graph(scope="all"):
        assert type(tp.pruner.MetaPruner(net, x, magnitude).DG) is ChannelGraph
    assert type(tp.pruner.MetaPruner(net, x, magnitude).DG) is tp.DependencyGraph
    gates = GateSet(net, x, "all")
    gates.load_masks({"0": torch.arange(8) < 5})
    ours = tp.pruner.MetaPruner(net, x, SepPruneImportance(gates))
    assert type(ours.DG) is ChannelGraph
    assert type(tp.pruner.MetaPruner(net, x, magnitude).DG) is tp.DependencyGraph


def test_channel_graph_is_taken_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), channel_graph(scope="all"):
        raise ZeroDivisionError
    net = nn.Sequential(nn.Conv1d(1, 8, 3), nn.Conv1d(8, 1, 3))
    pruner = tp.pruner.MetaPruner(net, torch.randn(1, 1, 16), tp.importance.MagnitudeImportance())
    assert type(pruner.DG) is tp.DependencyGraph


def test_installing_twice_wraps_once() -> None:
    before = tp.pruner.MetaPruner.__init__
    install()
    assert tp.pruner.MetaPruner.__init__ is before
    assert "importance" in inspect.signature(before).parameters


def test_channel_graph_on_a_plain_network() -> None:
    net = PlainConv().eval()
    x = torch.randn(2, 64)
    shape, before = net(x).shape, params(net)
    with channel_graph(scope="all"):
        pruner = tp.pruner.MetaPruner(
            net, x, tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.5
        )
    pruner.step()
    assert net(x).shape == shape and params(net) < 0.6 * before
    assert net.grouped.groups == 3 and net.grouped.in_channels == net.grouped.out_channels == 6
    assert net.rnn.hidden_size == 3 and net.head.in_features == 6
