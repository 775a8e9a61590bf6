"""Pruners: torch-pruning's verbatim with our importance, ours with torch-pruning's importances."""

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
from torch import Tensor, nn

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import SEPARATORS, PlainConv, randomised
from laws import TIME, example, gated, keep_by, mixture, snapshot

from sepprune_tp.errors import InputError, NotLearnedError
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, channel_graph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner, install
from sepprune_tp.search import Budget, learn_gates

SOME = ["ConvTasNet-gLN", "ConvTasNet-bN", "SuDORMRFImprovedNet", "DPRNNTasNet-GRU-bi"]
OTHERS = [
    "ConvTasNet-analytic",
    "TDConvNetpp-gLN",
    "DCCRNet",
    "DCUNet-trim-2-sources",
    "DeMask-analytic",
    "FasNetTAC-gLN",
]
X = mixture(1, TIME)

DCCRN_FIRST_RNN = "masker.encoders.2.rnn.rnns.0.re_module.rnn"

IMPORTANCES: dict[str, Any] = {
    "magnitude-1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "magnitude-2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "hessian": tp.importance.GroupHessianImportance,
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "bn-scale": tp.importance.BNScaleImportance,
    "random": tp.importance.RandomImportance,
}


def built(name: str, seed: int = 0) -> nn.Module:
    return randomised(SEPARATORS[name], seed, torch.float32)


def ready(kind: str, model: nn.Module, name: str = "") -> Any:
    """An importance with what it needs: gradients for Taylor and Hessian."""
    importance = IMPORTANCES[kind]()
    if kind in ("taylor", "hessian"):
        loss = (model(example(name, 2, seed=1)) - 0.1).square()
        if kind == "hessian":
            importance.zero_grad()
            for item in loss.flatten(1).mean(1):
                model.zero_grad()
                item.backward(retain_graph=True)
                importance.accumulate_grad(model)
        else:
            loss.mean().backward()
    return importance


def widths(model: nn.Module) -> dict[str, int]:
    """Channels by layer, in models of all kinds."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            found[name] = module.weight.shape[0]
        elif isinstance(module, nn.RNNBase):
            found[name] = module.hidden_size
    return found


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def assert_runs(model: nn.Module, shape: torch.Size) -> None:
    with torch.no_grad():
        y = model(X)
        assert y.shape == shape and bool(torch.isfinite(y).all())
        assert model(mixture(2, 613)).shape == (2, shape[1], 613)


def answers(model: nn.Module, name: str) -> list[torch.Size]:
    """Shapes of what a model answers to two inputs of other lengths and batches, all finite."""
    with torch.no_grad():
        found = [model(example(name)), model(example(name, 2, 613))]
    assert all(bool(torch.isfinite(y).all()) for y in found)
    return [y.shape for y in found]


def with_scores(
    model: nn.Module, scope: str = "separator", seed: int = 0, x: Tensor = X
) -> GateSet:
    """Gates with distinct scores drawn from a seed, as if they had been learned."""
    gates = GateSet(model, x, scope)
    generator = torch.Generator().manual_seed(seed)
    gates.scores = torch.randperm(len(gates), generator=generator).float()
    gates.learned = True
    return gates


# -- torch-pruning's pruners with our importance -------------------------------------------------


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


# -- our pruner with torch-pruning's importances -------------------------------------------------


@pytest.mark.parametrize("kind", IMPORTANCES)
@pytest.mark.parametrize("name", SOME + OTHERS)
def test_every_importance_globally(kind: str, name: str) -> None:
    model, x = built(name), example(name)
    shapes, before = answers(model, name), params(model)
    importance = ready(kind, model, name)
    scope = "separator" if name in SOME else "all"
    pruner = SepPrunePruner(model, x, importance, 0.4, scope, global_pruning=True)
    scored = [
        importance(group)
        for group in pruner.DG.get_all_groups(root_module_types=pruner.root_module_types)
    ]
    pruner.step()
    assert answers(model, name) == shapes
    if all(score is None for score in scored):  # BNScale on a model without batch norm
        assert kind == "bn-scale" and params(model) == before
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    else:
        assert params(model) < before


@pytest.mark.parametrize("kind", ["magnitude-2", "taylor", "fpgm", "random"])
@pytest.mark.parametrize("name", ["ConvTasNet-gLN", "DPRNNTasNet-GRU-bi"])
@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("way", ["local", "global", "isomorphic"])
def test_round_to(kind: str, name: str, step: int, way: str) -> None:
    model = built(name)
    options = {"global_pruning": way != "local", "isomorphic": way == "isomorphic"}
    shape, before = model(X).shape, params(model)
    pruner = SepPrunePruner(
        model, X, ready(kind, model), pruning_ratio=0.3, round_to=step, **options
    )
    dense = {name: group.channel_set.size for name, group in pruner.graph.named_groups()}
    pruner.step()
    assert_runs(model, shape)
    assert params(model) < before
    for name_, group in pruner.graph.named_groups():
        if group.channel_set.size != dense[name_]:
            assert group.channel_set.size % step == 0


def test_isomorphic_ranks_alike_groups_together() -> None:
    model = built("ConvTasNet-gLN")
    pruner = SepPrunePruner(
        model,
        X,
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        global_pruning=True,
        isomorphic=True,
    )
    pruner.step()
    hidden = [block.shared_block[0].out_channels for block in model.masker.TCN]
    assert sum(hidden) == 20  # half of the four blocks of 10, ranked among themselves
    assert model.masker.bn_chan == 4 and model.masker.skip_chan == 3
    assert_runs(model, torch.Size((1, 2, TIME)))


def test_local_ratio_is_that_of_every_group() -> None:
    model = built("ConvTasNet-gLN")
    SepPrunePruner(model, X, tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.5).step()
    assert model.masker.bn_chan == 4 and model.masker.skip_chan == 3
    assert model.masker.hid_chan == 5


@pytest.mark.parametrize(
    "name", [*SOME, "LSTMTasNet-3-layers-bi", "DCCRNet", "FasNetTAC-gLN", "DPTNet"]
)
def test_iterative_steps_reach_their_ratios(name: str) -> None:
    model, x = built(name), example(name)
    shapes = answers(model, name)
    magnitude = tp.importance.GroupMagnitudeImportance()
    pruner = SepPrunePruner(model, x, magnitude, pruning_ratio=0.5, iterative_steps=3)
    dense = {n: g.channel_set.size for n, g in pruner.graph.named_groups()}
    # where an RNN is all that makes and reads, torch-pruning alone scores nothing, on our graph all
    unscored = {n for n, g in pruner.graph.named_groups() if magnitude(g) is None}
    assert unscored == ({DCCRN_FIRST_RNN} if name == "DCCRNet" else set())
    assert all(pruner.estimate_importance(g) is not None for _, g in pruner.graph.named_groups())
    for step in (1, 2, 3):
        pruner.step()
        assert answers(model, name) == shapes
        for n, group in pruner.graph.named_groups():
            share = 1 - 0.5 * step / 3
            assert group.channel_set.size == int(dense[n] * share + 1e-9), (n, step)
    small = params(model)
    with pytest.warns(UserWarning, match="exceed the maximum iterative steps"):
        pruner.step()
    assert params(model) == small


def test_interactive() -> None:
    model = built("ConvTasNet-gLN")
    pruner = SepPrunePruner(model, X, tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.5)
    chosen = [g for g in pruner.step(interactive=True) if "skip_conv" in g[0].dep.target.name]
    assert params(model) == params(built("ConvTasNet-gLN"))  # nothing happens by itself
    for group in chosen:
        assert isinstance(group, tp.Group)
        group.prune()
    assert model.masker.skip_chan == 3 and model.masker.bn_chan == 8
    assert_runs(model, torch.Size((1, 2, TIME)))


def test_interactive_with_masks() -> None:
    model = built("DPRNNTasNet-GRU-bi")
    gates = GateSet(model, X)
    gates.load_masks({"masker.net.0.intra_RNN.rnn": torch.arange(6) < 2})
    pruner = SepPrunePruner(model, X, SepPruneImportance(gates))
    groups = list(pruner.step(interactive=True))
    assert [group[0].idxs for group in groups] == [[2, 3, 4, 5]]
    groups[0].prune()
    assert widths(model)["masker.net.0.intra_RNN.rnn"] == 2
    assert widths(model)["masker.net.0.inter_RNN.rnn"] == 6


def test_pruning_ratio_of_single_layers() -> None:
    model = built("ConvTasNet-gLN")
    blocks = model.masker.TCN
    ratios = {blocks[1].shared_block[0]: 0.75, (blocks[2], blocks[3]): 0.5}
    SepPrunePruner(
        model,
        X,
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        global_pruning=True,
    ).step()
    hidden = [block.shared_block[0].out_channels for block in blocks]
    assert hidden[:2] == [10, 2] and hidden[2] + hidden[3] < 20
    assert_runs(model, torch.Size((1, 2, TIME)))


@pytest.mark.parametrize(
    "name", ["DPRNNTasNet-GRU-bi", "DPRNNTasNet-LSTM-uni", "DPRNNTasNet-RNN-bi"]
)
@pytest.mark.parametrize("ours", [True, False], ids=["SepPrunePruner", "MetaPruner"])
@pytest.mark.parametrize("way", ["local", "global"])
def test_pruning_ratio_of_recurrent_layers(name: str, ours: bool, way: str) -> None:
    model = built(name)
    rnn = model.masker.net[1].inter_RNN.rnn
    cls = SepPrunePruner if ours else tp.pruner.MetaPruner
    magnitude = tp.importance.GroupMagnitudeImportance()
    cls(
        model,
        X,
        importance=magnitude if ours else SepPruneImportance(with_scores(model)),
        pruning_ratio=0.0,
        pruning_ratio_dict={rnn: 0.5},
        global_pruning=way == "global",
    ).step()
    assert rnn.hidden_size == 3
    assert {n: w for n, w in widths(model).items() if w == 3} == {"masker.net.1.inter_RNN.rnn": 3}
    assert_runs(model, torch.Size((1, 2, TIME)))


def test_max_pruning_ratio() -> None:
    results = {}
    for limit in (1.0, 0.3):
        model = built("ConvTasNet-gLN")
        block = model.masker.TCN[0].shared_block[0]
        SepPrunePruner(
            model,
            X,
            tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.0,
            pruning_ratio_dict={block: 0.85},
            max_pruning_ratio=limit,
        ).step()
        results[limit] = block.out_channels
    assert results == {1.0: 1, 0.3: 7}


def test_ignored_layers_stay() -> None:
    model = built("ConvTasNet-gLN")
    SepPrunePruner(
        model,
        X,
        tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[model.masker.TCN[1], model.masker.bottleneck[1]],
    ).step()
    # block 1 also makes residual and skip channels, so those stay with it
    assert [b.shared_block[0].out_channels for b in model.masker.TCN] == [5, 10, 5, 5]
    assert (model.masker.bn_chan, model.masker.skip_chan) == (8, 6)


def test_pruners_do_not_share_their_defaults() -> None:
    one, two = built("SuDORMRFImprovedNet"), built("SuDORMRFImprovedNet")
    magnitude = tp.importance.GroupMagnitudeImportance()
    first = SepPrunePruner(one, X, magnitude, pruning_ratio=0.5)
    second = SepPrunePruner(two, X, magnitude, pruning_ratio=0.5)
    assert first.out_channel_groups is not second.out_channel_groups
    assert not set(first.out_channel_groups) & set(two.modules())


# -- scores have the length of the root ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["magnitude-2", "taylor", "lamp", "fpgm", "random"])
def test_scores_are_as_long_as_the_root(kind: str) -> None:
    model = built("DPRNNTasNet-GRU-bi")
    importance = ready(kind, model)
    roots = {}
    for name, group in ChannelGraph("all").build_dependency(model, X).named_groups():
        score = importance(group)
        assert score is not None and score.shape == (len(group[0].idxs),)
        assert bool(torch.isfinite(score).all())
        roots[name] = group[0].dep.target.module
    assert isinstance(roots["masker.net.0.intra_RNN.rnn"], nn.GRU)  # bidirectional
    assert roots["masker.net.0.intra_RNN.rnn"].bidirectional


class Glu(nn.Module):
    """A layer whose two halves are tied by a gated linear unit."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv1d(1, 12, 3), nn.Conv1d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(nn.functional.glu(self.make(x), 1))


@pytest.mark.parametrize("kind", ["magnitude-2", "fpgm", "random"])
def test_scores_of_tied_halves(kind: str) -> None:
    net, x = Glu(), torch.randn(1, 1, 16)
    ((_, group),) = ChannelGraph("all").build_dependency(net, x).named_groups()
    assert group.channel_set.size == 6
    assert IMPORTANCES[kind]()(group).shape == (12,) == (len(group[0].idxs),)
    SepPrunePruner(net, x, IMPORTANCES[kind](), pruning_ratio=0.5, scope="all").step()
    assert (net.make.out_channels, net.read.in_channels) == (6, 3)
    assert net(x).shape == (1, 1, 14)


def test_magnitude_of_a_group_is_what_its_layers_hold() -> None:
    """The group's score by hand: out rows of the maker and in columns of its readers."""
    model = built("ConvTasNet-gLN")
    graph = ChannelGraph().build_dependency(model, X)
    group = dict(graph.named_groups())["masker.TCN.0.shared_block.0"]
    block = model.masker.TCN[0]
    parts = [block.shared_block[0].weight.abs().sum((1, 2))]
    parts += [c.weight.abs().sum((0, 2)) for c in (block.res_conv, block.skip_conv)]
    expected = torch.stack(parts).mean(0)
    found = tp.importance.GroupMagnitudeImportance(p=1, normalizer=None)(group)
    assert torch.allclose(found, expected.detach())


# -- learned gates -------------------------------------------------------------------------------


def learn(model: nn.Module, budget: float = 0.6) -> GateSet:
    gates = GateSet(model, X)
    sources = mixture(2, 2, TIME, seed=4)
    learn_gates(
        gates, [(sources.sum(1), sources)], budget=Budget(macs=budget), steps=4, progress=False
    )
    return gates


def test_importance_without_gates_uses_the_last_learned() -> None:
    model, twin = built("ConvTasNet-gLN"), built("ConvTasNet-gLN")
    learn(model, 0.9)
    gates = learn(model, 0.6)
    learn(twin, 0.5)  # another model's gates are not taken
    expected = gates.cost()
    SepPrunePruner(model, X, SepPruneImportance()).step()
    found = profile(model, X)
    assert (found.params, found.macs) == (expected.params, expected.macs)


def test_without_learning() -> None:
    model = built("ConvTasNet-gLN")
    with pytest.raises(
        NotLearnedError, match="no gates were learned on this ConvTasNet: run learn"
    ):
        SepPrunePruner(model, X, SepPruneImportance())
    with pytest.raises(NotLearnedError, match="no gates were learned on this ConvTasNet"):
        tp.pruner.MetaPruner(model, X, importance=SepPruneImportance(), pruning_ratio=0.4)
    with pytest.raises(NotLearnedError, match="the gates of this importance have not been learned"):
        SepPrunePruner(model, X, SepPruneImportance(GateSet(model, X)))
    with pytest.raises(InputError, match="takes a GateSet, not a ConvTasNet"):
        SepPruneImportance(model)  # type: ignore[arg-type]


def test_another_importance_needs_a_ratio() -> None:
    with pytest.raises(
        InputError, match="GroupMagnitudeImportance ranks channels but does not say"
    ):
        SepPrunePruner(built("ConvTasNet-gLN"), X, tp.importance.GroupMagnitudeImportance())


def test_masks_are_followed_to_the_channel() -> None:
    model = built("ConvTasNet-gLN")
    dense = copy.deepcopy(model)
    gates = GateSet(model, X)
    masks = keep_by(gates, "odd", seed=5)
    gates.load_masks(masks)
    SepPrunePruner(model, X, SepPruneImportance(gates)).step()
    kept = masks["masker.bottleneck.1"]
    expected = dense.masker.bottleneck[1].weight[kept]
    assert torch.equal(model.masker.bottleneck[1].weight, expected)


def test_gates_of_a_model_that_was_pruned_since_say_so() -> None:
    model = built("DPRNNTasNet-GRU-bi")
    gates = GateSet(model, X)
    gates.load_masks(keep_by(gates, "half"))
    SepPrunePruner(model, X, SepPruneImportance(gates)).step()
    with pytest.raises(InputError, match=r"has 4 channels, its gates were made for 8.*new GateSet"):
        gates.__enter__()
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert_runs(model, torch.Size((1, 2, TIME)))
    with GateSet(model, X):
        assert_runs(model, torch.Size((1, 2, TIME)))


def test_a_second_step_by_masks_removes_nothing_more() -> None:
    model = built("ConvTasNet-gLN")
    gates = GateSet(model, X)
    gates.load_masks(keep_by(gates, "half"))
    pruner = SepPrunePruner(model, X, SepPruneImportance(gates))
    pruner.step()
    before = widths(model)
    pruner.step()
    assert widths(model) == before


@pytest.mark.parametrize("cls", [SepPrunePruner, tp.pruner.MetaPruner])
def test_iterations_keep_scores_beside_their_channels(cls: Any) -> None:
    """After two steps the original channels with the best scores are left, to the last weight."""
    model = built("ConvTasNet-gLN")
    dense = copy.deepcopy(model)
    gates = with_scores(model, seed=3)
    options = {"pruning_ratio": 0.6, "iterative_steps": 2, "global_pruning": False}
    pruner = cls(model, X, importance=SepPruneImportance(gates), **options)
    for _ in range(2):
        pruner.step()
    keep = {}
    for group in gates.groups:
        scores = gates.scores[group.gates]
        count = int(group.size * (1 - 0.6) + 1e-9)
        keep[group.name] = scores >= scores.sort(descending=True).values[count - 1]
    stream = keep["masker.bottleneck.1"]
    assert torch.equal(model.masker.bottleneck[1].weight, dense.masker.bottleneck[1].weight[stream])
    for old, new, number in zip(dense.masker.TCN, model.masker.TCN, range(4), strict=True):
        hidden = keep[f"masker.TCN.{number}.shared_block.0"]
        first = old.shared_block[0].weight[hidden][:, stream]
        assert torch.equal(new.shared_block[0].weight, first)
        assert torch.equal(new.res_conv.weight, old.res_conv.weight[stream][:, hidden])


# -- what a pruner leaves alone ------------------------------------------------------------------


@pytest.mark.parametrize("learned", [True, False])
def test_modes_and_flags_stay(learned: bool) -> None:
    model = built("ConvTasNet-gLN")
    gates = gated("ConvTasNet-gLN", "separator")
    gates.load_masks(keep_by(gates, "half"))
    model.train()
    model.masker.TCN[1].eval()
    model.masker.TCN[2].res_conv.weight.requires_grad_(False)
    before = snapshot(model)
    if learned:
        pruner = SepPrunePruner(model, X, SepPruneImportance(gates))
    else:
        magnitude = tp.importance.GroupMagnitudeImportance()
        pruner = SepPrunePruner(model, X, magnitude, pruning_ratio=0.5)
    pruner.step()
    after = snapshot(model)
    assert before["flags"] == after["flags"]
    assert {n: m[0] for n, m in before["modules"].items()} == {
        n: m[0] for n, m in after["modules"].items()
    }
    assert all(not m[2] and not m[3] and m[1] is None for m in after["modules"].values())
    assert params(model) < sum(v.numel() for v in before["values"].values())


def test_verbatim_pruner_leaves_modes_and_flags() -> None:
    model = built("ConvTasNet-gLN").train()
    model.masker.TCN[1].eval()
    modes = {n: m.training for n, m in model.named_modules()}
    gates = with_scores(model)
    tp.pruner.MetaPruner(
        model, X, importance=SepPruneImportance(gates), global_pruning=True, pruning_ratio=0.4
    ).step()
    assert modes == {n: m.training for n, m in model.named_modules()}
