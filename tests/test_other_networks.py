"""Networks of other fields: the groups are right, and what is gated is what is pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from architectures import randomised
from laws import far
from torch import Tensor, nn
from torch.nn import functional

from sepprune_tp.checkpoint import load_pruned, save_pruned
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, channel_graph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner

Forward = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Layers by name, and a function of them; parameters and buffers are registered as such."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def image(channels: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 8, 8, generator=generator, dtype=torch.float64)


def tokens(count: int = 11) -> Tensor:
    return torch.randint(0, count, (2, 7), generator=torch.Generator().manual_seed(0))


def call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, (tuple, list)) else model(example)


def first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output


def unet(net: Any, x: Tensor) -> Tensor:
    one = net.norm1(net.down1(x)).relu_()
    two = net.norm2(net.down2(functional.max_pool2d(one, 2))).relu_()
    three = net.bottom(functional.max_pool2d(two, 2)).relu()
    up = net.join2(torch.cat([net.up2(three), two], 1)).relu()
    return net.head(net.join1(torch.cat([net.up1(up), one], 1)).relu())


def squeeze_excite(net: Any, x: Tensor) -> Tensor:
    y = net.make(x)
    scale = net.expand(net.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return net.read(y * scale)


def tagger(net: Any, x: Tensor) -> Tensor:
    y, _ = net.rnn(net.embed(x))
    return net.head(y)


def tied_language_model(net: Any, x: Tensor) -> Tensor:
    return net.head(net.norm(net.embed(x) + net.mix(net.embed(x))).tanh())


def in_place(net: Any, x: Tensor) -> Tensor:
    y = net.make(x) * 0.5
    y.add_(net.other(x)).mul_(2)
    y += 1
    y[:, :, 0] = 0
    y[:, :, 1] = net.other(x)[:, :, 2]
    y[torch.tensor([0])] = 0.5
    return net.read(y)


def grouped_views(net: Any, x: Tensor) -> Tensor:
    """An attention over positions as einops writes it: channels are split, merged, reduced."""
    y = net.make(x)
    flat = y.reshape(*y.shape[:2], -1)
    weights = torch.einsum("bcn,bcm->bnm", net.keys(flat), net.keys(flat)).softmax(-1)
    return net.read(torch.einsum("bcn,bmn->bcm", flat, weights).reshape(y.shape))


def norms(net: Any, x: Tensor) -> Tensor:
    y = net.instance(net.single(net.make(x)))
    return net.read(functional.hardswish(y, inplace=True))


def tied_layers(net: Any, x: Tensor) -> Tensor:
    y = net.one(x.flatten(2).transpose(1, 2)).relu()
    return net.read(net.back(net.two(y).relu()).tanh())


def share(first_layer: nn.Module, second_layer: nn.Module, name: str = "weight") -> nn.Module:
    setattr(second_layer, name, getattr(first_layer, name))
    return second_layer


def make_tied_layers() -> nn.Module:
    one, two, back = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    return Net(tied_layers, one=one, two=two, back=share(two, back), read=nn.Linear(8, 2))


def make_tied_language_model() -> nn.Module:
    embed, head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
    layers = {"embed": embed, "mix": nn.Linear(8, 8), "norm": nn.LayerNorm(8)}
    return Net(tied_language_model, **layers, head=share(embed, head))


def parameters_of_all_shapes(net: Any, x: Tensor) -> Tensor:
    y = net.make(x) * net.map * net.gain.exp() + net.vector[:, None, None]
    return net.read(y * net.scale - net.mean[None, :, None, None])


def make_parameters() -> nn.Module:
    tensors = {
        "map": nn.Parameter(torch.rand(1, 8, 1, 1)),
        "vector": nn.Parameter(torch.rand(8)),
        "gain": nn.Parameter(torch.rand(8, 8, 8)),  # (C, H, W), all of one size
        "scale": torch.rand(1, 8, 1, 1) + 0.5,
        "mean": torch.rand(8),
    }
    return Net(parameters_of_all_shapes, make=conv(1, 8), read=conv(8, 2, 1), **tensors)


def class_token(net: Any, x: Tensor) -> Tensor:
    y = net.make(x).flatten(2).transpose(1, 2)
    y = torch.cat([net.token.expand(len(y), -1, -1), y], 1) + net.place
    return net.read(net.norm(y)[:, 0])


def make_class_token() -> nn.Module:
    token, place = nn.Parameter(torch.rand(1, 1, 8)), nn.Parameter(torch.rand(1, 65, 8))
    layers = {"make": conv(1, 8), "norm": nn.LayerNorm(8), "read": nn.Linear(8, 2)}
    return Net(class_token, token=token, place=place, **layers)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, int]]] = {
    "u-net": (
        lambda: Net(
            unet,
            down1=conv(1, 4),
            norm1=nn.BatchNorm2d(4),
            down2=conv(4, 6),
            norm2=nn.BatchNorm2d(6),
            bottom=conv(6, 8),
            up2=nn.ConvTranspose2d(8, 6, 2, stride=2),
            join2=conv(12, 6),
            up1=nn.ConvTranspose2d(6, 4, 2, stride=2),
            join1=conv(8, 4),
            head=conv(4, 1, 1),
        ),
        image(),
        {"down1": 4, "down2": 6, "bottom": 8, "up2": 6, "join2": 6, "up1": 4, "join1": 4},
    ),
    "tagger": (
        lambda: Net(
            tagger,
            embed=nn.Embedding(11, 8),
            rnn=nn.GRU(8, 6, bidirectional=True, batch_first=True),
            head=nn.Linear(12, 5),
        ),
        tokens(),
        {"embed": 8, "rnn": 6},
    ),
    "tied embedding": (make_tied_language_model, tokens(), {"embed": 8}),
    "tied layers": (make_tied_layers, image(6), {"one": 8}),
    "squeeze and excite": (
        lambda: Net(
            squeeze_excite,
            make=conv(1, 8),
            squeeze=conv(8, 4, 1),
            expand=conv(4, 8, 1),
            read=conv(8, 2, 1),
        ),
        image(),
        {"make": 8, "squeeze": 4},
    ),
    "pixel shuffle": (
        lambda: Net(
            lambda n, x: n.read(functional.pixel_shuffle(n.make(x), 2)),
            make=conv(1, 16),
            read=conv(4, 1),
        ),
        image(),
        {"make": 4},
    ),
    "pixel unshuffle": (
        lambda: Net(
            lambda n, x: n.read(functional.pixel_unshuffle(n.make(x), 2)),
            make=conv(1, 6),
            read=conv(24, 2),
        ),
        image(),
        {"make": 6},
    ),
    "shared module": (
        lambda: Net(
            lambda n, x: n.read(n.twice(n.twice(n.make(x)).relu())),
            make=conv(1, 8),
            twice=conv(8, 8),
            read=conv(8, 1),
        ),
        image(),
        {"make": 8},
    ),
    "channel multiplier": (
        lambda: Net(
            lambda n, x: n.read(n.narrow(n.wide(n.make(x)).relu()).relu()),
            make=conv(1, 6),
            wide=conv(6, 18, groups=6),
            narrow=conv(18, 9, groups=9),
            read=conv(9, 2),
        ),
        image(),
        # pairs of `wide` are one output of `narrow`; three of them one input: all in steps of 6
        {"make": 3},
    ),
    "depthwise up": (
        lambda: Net(
            lambda n, x: n.read(n.up(n.make(x)).relu()),
            make=conv(1, 6),
            up=nn.ConvTranspose2d(6, 12, 2, stride=2, groups=6),
            read=conv(12, 2),
        ),
        image(),
        {"make": 6},
    ),
    "grouped up": (
        lambda: Net(
            lambda n, x: n.read(n.up(n.make(x)).relu()),
            make=conv(1, 12),
            up=nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2),
            read=conv(8, 2),
        ),
        image(),
        {"make": 6, "up": 4},
    ),
    "groups that become units": (
        lambda: Net(
            lambda n, x: n.read(n.mix(n.make(x)).relu()),
            make=conv(1, 8),
            mix=conv(8, 16, groups=4),
            read=conv(16, 2),
        ),
        image(),
        {"make": 2, "mix": 4},
    ),
    "norms": (
        lambda: Net(
            norms,
            make=conv(1, 8),
            single=nn.GroupNorm(8, 8),
            instance=nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
            read=conv(8, 2),
        ),
        image(),
        {"make": 8},
    ),
    "in place": (
        lambda: Net(in_place, make=conv(1, 8), other=conv(1, 8), read=conv(8, 2)),
        image(),
        {"make": 8},
    ),
    "stack and sum": (
        lambda: Net(
            lambda n, x: n.read(torch.stack([n.make(x), n.other(x)]).sum(0).relu()),
            make=conv(1, 8),
            other=conv(1, 8),
            read=conv(8, 2),
        ),
        image(),
        {"make": 8},
    ),
    "parameters and buffers": (make_parameters, image(), {"make": 8}),
    "class token": (make_class_token, image(), {"make": 8}),
    "keywords in, dictionary out": (
        lambda: Net(
            lambda n, x, more: {"out": n.read(n.make(x) + n.other(more["y"])), "again": [x]},
            make=conv(1, 8),
            other=conv(1, 8),
            read=conv(8, 2),
        ),
        {"x": image(), "more": {"y": image(seed=1)}},
        {"make": 8},
    ),
    "several inputs": (
        lambda: Net(
            lambda n, x, ys: (n.read(n.make(x) * n.other(ys[0])), x),
            make=conv(1, 8),
            other=conv(1, 8),
            read=conv(8, 2),
        ),
        (image(), [image(seed=1), None]),
        {"make": 8},
    ),
}


def network(name: str) -> tuple[nn.Module, Any, dict[str, int]]:
    build, example, expected = NETWORKS[name]
    return randomised(build, 0, torch.float64), example, expected


def halved(gates: GateSet) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for group in gates.groups:
        masks[group.name] = torch.zeros(group.size, dtype=torch.bool)
        kept = torch.randperm(group.size, generator=generator)[: (group.size + 1) // 2]
        masks[group.name][kept] = True
    gates.load_masks(masks)


def assert_exact(model: nn.Module, example: Any) -> nn.Module:
    """Gated = pruned, not dense, every parameter learns; returns the pruned copy."""
    gates = GateSet(model, example, scope="all")
    halved(gates)
    pruned = copy.deepcopy(model)
    SepPrunePruner(pruned, example, SepPruneImportance(gates)).step()
    with torch.no_grad(), gates:
        gated = first(call(model, example))
    found, dense = first(call(pruned, example)), first(call(model, example))
    assert far(gated, found) <= 1e-10
    assert far(gated, dense) > 1e-3, "a negative control: gates do something"
    found.square().sum().backward()
    assert all(p.grad is not None for p in pruned.parameters())
    left = sum(p.numel() for p in pruned.parameters())
    assert gates.cost_model.exact(gates.keep).params == left
    return pruned


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


def bare_weights(net: Any, x: Tensor) -> Tensor:
    return net.read(functional.conv2d(net.make(x), net.weight))


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str, str]] = {
    "bare convolution weight": (
        lambda: Net(
            bare_weights,
            make=conv(1, 8),
            weight=nn.Parameter(torch.rand(4, 8, 1, 1)),
            read=conv(4, 2),
        ),
        image(),
        "make",
        "operation 'convolution' has no rule and may mix channels",
    ),
    "bare linear weight": (
        lambda: Net(
            lambda n, x: n.read(functional.linear(n.make(x), n.weight)),
            make=nn.Linear(8, 8),
            weight=nn.Parameter(torch.rand(4, 8)),
            read=nn.Linear(4, 2),
        ),
        image(),
        "make",
        "a product with a tensor that has no channels to match",
    ),
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
    "softmax over channels": (
        lambda: Net(
            lambda n, x: n.read(n.make(x).softmax(1)),
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
