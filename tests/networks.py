"""Networks of other fields, and the law that what is gated is what is pruned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from architectures import randomised
from laws import far
from torch import Tensor, nn
from torch.nn import functional

from sepprune_tp.gates import GateSet
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
    "bare convolution weight": (
        lambda: Net(
            lambda n, x: n.read(functional.conv2d(n.make(x), n.weight)),
            make=conv(1, 8),
            weight=nn.Parameter(torch.rand(4, 8, 1, 1)),
            read=conv(4, 2),
        ),
        image(),
        {"make": 8, "weight": 4},
    ),
    "bare linear weight": (
        lambda: Net(
            lambda n, x: n.read(functional.linear(n.make(x), n.weight)),
            make=nn.Linear(8, 8),
            weight=nn.Parameter(torch.rand(4, 8)),
            read=nn.Linear(4, 2),
        ),
        image(),
        {"make": 8, "weight": 4},
    ),
    "softmax over channels": (
        lambda: Net(lambda n, x: n.read(n.make(x).softmax(1)), make=conv(1, 8), read=conv(8, 2)),
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
