"""Networks of other fields: the groups are right, and what is gated is what is pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from architectures import randomised
from networks import NETWORKS, Net, assert_exact, call, conv, first, image, network, tokens
from torch import Tensor, nn
from torch.nn import functional

from sepprune_tp.checkpoint import load_pruned, save_pruned
from sepprune_tp.graph import ChannelGraph, channel_graph


@pytest.mark.parametrize("name", NETWORKS)
def test_groups(name: str) -> None:
    model, example, expected = network(name)
    graph = ChannelGraph("all").build_dependency(model, example)
    assert {n: group.channel_set.size for n, group in graph.named_groups()} == expected
    assert graph.tried.skipped is None and not graph.tried.refused


@pytest.mark.parametrize("name", NETWORKS)
def test_gated_is_pruned(name: str) -> None:
    model, example, _ = network(name)
    assert_exact(model, example)


# -- what may not go --------------------------------------------------------------------------


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str, str]] = {
    "layer weight used outside": (
        lambda: Net(
            lambda n, x: functional.linear(n.mix(n.embed(x)), n.embed.weight),
            embed=nn.Embedding(11, 8),
            mix=nn.Linear(8, 8),
        ),
        tokens(),
        "embed",
        "the model uses the weights of layer 'embed' outside of it",
    ),
    "bilinear": (
        lambda: Net(
            lambda n, x: n.two(n.make(x), n.make(x)),
            make=nn.Linear(8, 6),
            two=nn.Bilinear(6, 6, 2),
        ),
        image(),
        "make",
        "operation '_trilinear' has no rule and may mix channels",
    ),
    "local response norm": (
        lambda: Net(
            lambda n, x: n.read(n.norm(n.make(x))),
            make=conv(1, 8),
            norm=nn.LocalResponseNorm(3),
            read=conv(8, 2),
        ),
        image(),
        "make",
        "channels lie along an axis that is resampled or pooled",
    ),
    "cumulative sum over channels": (
        lambda: Net(
            lambda n, x: n.read(n.make(x).cumsum(1)),
            make=conv(1, 8),
            read=conv(8, 2),
        ),
        image(),
        "make",
        "all of its channels are coupled into one",
    ),
    "embedding with max_norm": (
        lambda: Net(
            lambda n, x: n.read(n.embed(x)),
            embed=nn.Embedding(11, 8, max_norm=1.0),
            read=nn.Linear(8, 2),
        ),
        tokens(),
        "read",
        "it is an output of the model",
    ),
    "LSTM with a projection": (
        lambda: Net(
            lambda n, x: n.read(n.rnn(n.make(x))[0]),
            make=nn.Linear(8, 6),
            rnn=nn.LSTM(6, 8, proj_size=3, batch_first=True),
            read=nn.Linear(3, 2),
        ),
        image()[:, 0],
        "make",
        "layer 'rnn' cannot be cut: an LSTM with proj_size=3",
    ),
    "index assignment to channels": (
        lambda: Net(put_channels, make=conv(1, 8), read=conv(8, 2)),
        image(),
        "make",
        "channels are picked by fixed positions",
    ),
}


def put_channels(net: Any, x: Tensor) -> Tensor:
    y = net.make(x)
    y[:, torch.tensor([1, 3])] = 0.0
    return net.read(y)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_go(name: str) -> None:
    build, example, layer, reason = REFUSED[name]
    model = randomised(build, 0, torch.float64)
    graph = ChannelGraph("all").build_dependency(model, example)
    assert list(graph.named_groups()) == []
    assert graph.protected[layer].startswith(reason), graph.protected
    assert not graph.tried.refused


def test_shared_weights_stay_one_tensor() -> None:
    """Also after several cuts, and for a weight that is a table and a matrix."""
    for name in ("tied embedding", "tied layers"):
        model, example, _ = network(name)
        pruned: Any = assert_exact(model, example)
        graph = ChannelGraph("all").build_dependency(pruned, example)
        for _, group in list(graph.named_groups()):
            group.prune(group[0].idxs[:1])
        ends = (pruned.embed, pruned.head) if "embed" in name else (pruned.two, pruned.back)
        assert ends[0].weight is ends[1].weight
        assert call(pruned, example).isfinite().all()


def test_a_cut_buffer_stays_a_buffer() -> None:
    model, example, _ = network("parameters and buffers")
    pruned: Any = assert_exact(model, example)
    assert pruned.scale.shape == (1, 4, 1, 1) and pruned.mean.shape == (4,)
    assert {"scale", "mean"} <= pruned.state_dict().keys()
    assert not {"scale", "mean"} & dict(pruned.named_parameters()).keys()


def test_parameters_and_buffers_of_a_separator_are_in_its_scope() -> None:
    class Separator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Conv1d(1, 6, 4, stride=2), nn.ConvTranspose1d(6, 1, 4)
            self.masker = make_masker()

        def forward(self, x: Tensor) -> Tensor:
            y = self.encoder(x)
            return self.decoder(y * self.masker(y))

    graph = ChannelGraph("separator").build_dependency(Separator(), torch.randn(1, 1, 40))
    assert [name for name, _ in graph.named_groups()] == ["masker.make"]


def make_masker() -> nn.Module:
    return Net(
        lambda n, x: n.read(n.make(x) * n.gain + n.shift),
        make=nn.Conv1d(6, 8, 1),
        read=nn.Conv1d(8, 6, 1),
        gain=nn.Parameter(torch.rand(8, 1)),
        shift=torch.rand(8, 1),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_pruning_prunes_it(name: str) -> None:
    """Magnitude in two steps over all groups, then Taylor, which reads gradients."""
    for importance in (tp.importance.GroupMagnitudeImportance(), tp.importance.TaylorImportance()):
        model, example, _ = network(name)
        before = sum(p.numel() for p in model.parameters())
        with channel_graph("all"):
            pruner = tp.pruner.MetaPruner(
                model,
                example,
                importance,
                global_pruning=True,
                pruning_ratio=0.5,
                iterative_steps=2,
            )
        for _ in range(2):
            first(call(model, example)).square().sum().backward()
            pruner.step()
        assert first(call(model, example)).isfinite().all()
        assert sum(p.numel() for p in model.parameters()) < before


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="needs the extra 'files'")
    model, example, _ = network(name)
    pruned = assert_exact(model, example)
    save_pruned(pruned, tmp_path / "pruned.safetensors")
    loaded = load_pruned(tmp_path / "pruned.safetensors", model=network(name)[0])
    assert torch.equal(first(call(loaded, example)), first(call(pruned, example)))
