"""Our pruner with torch-pruning's importances: ratios, rounding, and scores."""

from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from laws import TIME, example
from pruning import (
    DCCRN_FIRST_RNN,
    IMPORTANCES,
    OTHERS,
    SOME,
    X,
    answers,
    assert_runs,
    built,
    params,
    ready,
    widths,
    with_scores,
)

from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner


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
