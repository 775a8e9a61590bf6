"""Explanations: what goes together, where it met, and the path to what protects it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import PLAIN, SEPARATORS, randomised
from small_nets import Net, graph_of
from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.graph.explanation import Explanation, Part
from sepprune_tp.graph.slices import Slice, ranges

asteroid = pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")


def explained(graph: ChannelGraph, layer: str, side: str = "out") -> Part:
    """The only part of one side of a layer."""
    (part,) = graph.explain(layer, side).parts
    return part


def covered(part: Part) -> dict[tuple[str, int], tuple[int, ...]]:
    return {(s.parameter, s.dim): s.indices for s in part.slices}


@pytest.fixture(scope="module")
def conv_tasnet() -> nn.Module:
    return randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)


# -- what goes together --------------------------------------------------------------------------


def test_slices_of_a_small_net() -> None:
    net = Net(lambda n, x: n.norm(n.make(x)), norm=nn.BatchNorm1d(8))
    part = explained(graph_of(net), "make")
    every = tuple(range(8))
    assert covered(part) == {
        ("make.weight", 0): every,
        ("make.bias", 0): every,
        ("norm.weight", 0): every,
        ("norm.bias", 0): every,
        ("read.weight", 1): every,
    }
    assert [str(s) for s in part.slices[:2]] == ["make.weight[0:8, :, :] rows", "make.bias[0:8]"]
    assert part.reason is None and part.group == "make" and part.size == 8 and not part.path


def test_residual_stream_of_conv_tasnet(conv_tasnet: nn.Module) -> None:
    part = explained(graph_of(conv_tasnet, 1, 400), "masker.TCN.1.res_conv")
    blocks = [f"masker.TCN.{i}" for i in range(4)]
    assert part.group == "masker.bottleneck.1" and part.reason is None
    assert {s.parameter for s in part.slices} == {
        "masker.bottleneck.1.weight",
        "masker.bottleneck.1.bias",
        *(f"{b}.shared_block.0.weight" for b in blocks),
        *(f"{b}.res_conv.{kind}" for b in blocks for kind in ("weight", "bias")),
    }
    assert {(m.one, m.other, m.channels) for m in part.meetings} == {
        ("masker.bottleneck.1", f"{b}.res_conv", 8) for b in blocks
    }
    for meeting in part.meetings:
        assert (meeting.place.operation, meeting.place.module) == ("add", "masker")
        assert meeting.place.line.startswith("convolutional.py:")


@pytest.mark.parametrize(
    "name", ["DPRNNTasNet-LSTM-bi", "SuDORMRFNet", "DPTNet", "PlainAttention", "PlainConv"]
)
def test_slices_are_what_pruning_removes(name: str) -> None:
    """Cut two channels of every group: exactly the slices that are told go, and nothing else."""
    models = SEPARATORS | PLAIN
    dense = randomised(models[name], 0, torch.float32)
    groups = [n for n, _ in graph_of(dense, 1, 400).named_groups()]
    assert groups
    for root in groups:
        model = copy.deepcopy(dense)
        graph = graph_of(model, 1, 400)
        (group,) = [g for n, g in graph.named_groups() if n == root]
        told = covered(explained(graph, root))
        before = {n: p.shape for n, p in model.named_parameters()}
        per_channel = {key: len(idxs) / group.channel_set.size for key, idxs in told.items()}
        group.prune(group[0].idxs[:2])
        after = {n: p.shape for n, p in model.named_parameters()}
        if before.keys() != after.keys():
            continue  # packed weights came apart: shapes cannot be compared by name
        changed = {
            (n, d): before[n][d] - after[n][d]
            for n in before
            for d in range(len(before[n]))
            if before[n][d] != after[n][d]
        }
        assert changed == {key: 2 * count for key, count in per_channel.items()}, root


def test_several_groups_on_one_side() -> None:
    """A layer that reads two concatenated groups has two parts, with the right channels."""
    net = Net(lambda n, x: torch.cat([n.make(x), n.other(x)], 1), read=16)
    explanation = graph_of(net).explain("read", "in")
    assert [(p.group, p.channels) for p in explanation.parts] == [
        ("make", tuple(range(8))),
        ("other", tuple(range(8, 16))),
    ]
    assert explanation.part(3, "in").group == "make"
    assert explanation.part(12, "in").group == "other"
    with pytest.raises(InputError, match="no channel 16"):
        explanation.part(16, "in")


def test_a_bare_parameter() -> None:
    net = Net(lambda n, x: n.make(x) * n.gain, gain=nn.Parameter(torch.rand(8, 1)))
    graph = graph_of(net)
    part = explained(graph, "gain")
    assert part.group == "make"
    assert ("gain", 0) in covered(part)
    assert graph.explain(net.gain) == graph.explain("gain")  # type: ignore[arg-type]


def test_slices_shrink_with_the_model() -> None:
    net = Net(lambda n, x: n.make(x).relu())
    graph = graph_of(net)
    (group,) = [g for _, g in graph.named_groups()]
    group.prune([0, 5])
    part = explained(graph, "make")
    assert part.size == 6 and covered(part)["read.weight", 1] == tuple(range(6))


# -- why not -------------------------------------------------------------------------------------


def test_path_out_of_the_scope(conv_tasnet: nn.Module) -> None:
    """With scope='separator' the mask's rows are tied to the encoder by the product with it."""
    graph = graph_of(conv_tasnet, 1, 400, scope="separator")
    part = explained(graph, "masker.mask_net.1")
    assert part.reason == "it is tied to 'encoder', outside the scope"
    assert part.path[0].layer == "masker.mask_net.1" and part.path[-1].layer == "encoder"
    met = part.path[-1].place
    assert met is not None and met.operation == "mul" and met.line.startswith("base_models.py:")
    assert part.path[0].channel == part.path[-1].channel  # mask row f and filter f
    # the same question with scope="all" has another answer
    free = explained(graph_of(conv_tasnet, 1, 400), "masker.mask_net.1")
    assert free.reason is None and free.path == ()


def test_the_decoder_is_an_output(conv_tasnet: nn.Module) -> None:
    part = explained(graph_of(conv_tasnet, 1, 400), "decoder")
    assert part.reason == "it is an output of the model"
    assert [s.layer for s in part.path] == ["decoder"]


def test_residual_stream_protected_by_a_skip_to_the_output() -> None:
    """Three layers share a stream; the last addition is returned: the path names its operation."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Conv1d(1, 8, 1)
            self.blocks = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.make(x)
            for block in self.blocks:
                x = x + block(x)
            return x

    part = explained(graph_of(Stream()), "blocks.1")
    assert part.reason == "it is an output of the model"
    assert [s.layer for s in part.path] == ["blocks.1", "make"]
    assert part.path[1].place is not None and part.path[1].place.operation == "add"
    assert part.path[1].place.line.startswith("test_explain.py:")


def test_an_operation_without_a_rule() -> None:
    """A protected channel leads to the operation that has no rule, over the layers between."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv1d(1, 4, 1), nn.Conv1d(1, 4, 1)
            self.read = nn.Conv1d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            one = self.one(x)
            mixed = torch.linalg.matrix_exp(one[..., :4]).sum()
            return self.read(one * self.two(x)) + 0 * mixed

    graph = graph_of(Odd())
    part = explained(graph, "two")
    assert part.reason is not None and "linalg_matrix_exp" in part.reason
    assert "test_explain.py:" in part.reason
    assert [s.layer for s in part.path] == ["two", "one"]
    assert part.path[1].place is not None and part.path[1].place.operation == "mul"


def test_stft_filters_stay() -> None:
    """The filters of an STFT are computed, not learned: nothing to cut, and the reason says so."""
    from asteroid.models import DeMask

    with torch.random.fork_rng():
        model = DeMask(n_filters=64, kernel_size=64, stride=32, hidden_dims=(12, 10))
    graph = graph_of(model, 1, 640)
    part = graph.explain("encoder").parts[-1]
    assert part.reason is not None and part.slices == ()
    assert "encoder" in {row.layer for row in graph.report().protected}


def test_ignored_layer() -> None:
    net = Net(lambda n, x: n.make(x) + n.other(x))
    part = explained(graph_of(net, ignored_layers=[net.other]), "make")
    assert part.reason == "'other' is to be ignored"
    assert [s.layer for s in part.path] == ["make", "other"]


def test_channels_of_the_input() -> None:
    (part, *_) = graph_of(Net(lambda n, x: n.make(x))).explain("make", "in").parts
    assert part.group is None and part.reason == "it meets the model's input"


def test_refused_layer() -> None:
    net = Net(
        lambda n, x: n.mix(*[n.make(x).transpose(1, 2)] * 3)[0].transpose(1, 2),
        mix=nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
    )
    part = explained(graph_of(net), "make")
    assert part.reason is not None and "add_bias_kv" in part.reason


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("mak", "no layer or parameter 'mak'"),
        ("", "ask for a layer in it: make, read"),
        (nn.Linear(2, 2), "Linear is not part of the model"),
    ],
)
def test_what_cannot_be_explained(layer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph_of(Net(lambda n, x: n.make(x))).explain(layer)
    with pytest.raises(InputError, match="'in', 'out' or None"):
        graph_of(Net(lambda n, x: n.make(x))).explain("make", "both")


def test_a_layer_that_did_not_run() -> None:
    part = explained(graph_of(Net(lambda n, x: n.make(x))), "other")
    assert part.reason == "it did not run on the example input"


# -- text and report -----------------------------------------------------------------------------


def test_text_is_short(conv_tasnet: nn.Module) -> None:
    graph = graph_of(conv_tasnet, 1, 400, scope="separator")
    for site in graph.sites():
        text = str(graph.explain(site.owner))
        assert len(text.splitlines()) < 100 and max(map(len, text.splitlines())) < 200


def test_ranges() -> None:
    assert ranges(range(512)) == "0:512"
    assert ranges([3]) == "3"
    assert ranges([7, 0, 1, 2]) == "{0:3, 7}"
    assert ranges(range(0, 40, 2)) == "{0, 2, 4, 6, ... 20 in all}"
    assert Slice("a.weight", (4, 6, 3), 1, (0, 1)).elements == 4 * 2 * 3


def test_report(conv_tasnet: nn.Module) -> None:
    graph = graph_of(conv_tasnet, 1, 400, scope="separator")
    report = graph.report()
    rows = {row.name: row for row in report.groups}
    assert {n: r.channels for n, r in rows.items()} == {
        n: g.channel_set.size for n, g in graph.named_groups()
    }
    for row in report.groups:  # what a group takes along is what its slices hold
        slices = explained(graph, row.name).slices
        assert row.params == sum(s.elements for s in slices)
    assert {r.layer: r.reason for r in report.protected} == graph.protected
    assert 0 < report.prunable_params < report.params
    assert report.prunable_params < sum(r.params for r in report.groups)  # rows meet columns once
    text = str(report)
    assert "masker.TCN.0.skip_conv" in text and "it is an output of the model" in text
    assert f"{report.share:.1%}" in text


def test_report_counts_what_pruning_can_reach() -> None:
    """Cut all channels but one of every group: at most the share that the report promised goes."""
    model = randomised(PLAIN["PlainConv"], 0, torch.float32)
    report = graph_of(model, 1, 400).report()
    for root in [row.name for row in report.groups]:
        (group,) = [g for n, g in graph_of(model, 1, 400).named_groups() if n == root]
        if group.channel_set.size > 1:
            group.prune(group[0].idxs[: group.channel_set.size - 1])
    left = sum(p.numel() for p in model.parameters())
    assert report.params - report.prunable_params <= left < report.params


def test_explaining_leaves_the_model_alone(conv_tasnet: nn.Module) -> None:
    before = copy.deepcopy(conv_tasnet.state_dict())
    graph = graph_of(conv_tasnet, 1, 400)
    first: Explanation = graph.explain("masker.bottleneck.1")
    assert graph.explain("masker.bottleneck.1") == first
    after = conv_tasnet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    from sepprune_tp.checkpoint import save_pruned
    from sepprune_tp.cli import main

    net = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
    file = str(save_pruned(net, tmp_path / "net.safetensors"))
    assert main(["explain", file]) == 0
    assert "groups with" in capsys.readouterr().out
    assert main(["explain", file, "masker.mask_net.1", "--side", "out"]) == 0
    assert "met encoder[0] in 'mul'" in capsys.readouterr().out
    assert main(["explain", file, "masker.mask_net"]) == 2
    assert "masker.mask_net.1" in capsys.readouterr().err
