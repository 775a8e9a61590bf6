"""Small networks of a few layers, and what tests ask of their graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepprune_tp.graph import ChannelGraph, ChannelGroup, Scope
from sepprune_tp.graph.assembly import ChannelSet

TIME = 16


class Net(nn.Module):
    """``make`` (1 -> 8 channels), something in between, ``read`` (-> 1 channel)."""

    def __init__(
        self, middle: Callable[[Net, Tensor], Tensor], read: int = 8, **layers: Any
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.make = nn.Conv1d(1, 8, 3, padding=1)
            self.other = nn.Conv1d(1, 8, 3, padding=1)
            self.read = nn.Conv1d(read, 1, 1)
            for name, layer in layers.items():
                setattr(self, name, layer)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.middle(self, x))


def graph_of(model: nn.Module, *shape: int, scope: Scope = "all", **options: Any) -> ChannelGraph:
    x = torch.randn(*(shape or (1, 1, TIME)), generator=torch.Generator().manual_seed(0))
    return ChannelGraph(scope).build_dependency(model, x, **options)


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {name: group.channel_set.size for name, group in graph.named_groups()}


def set_of(graph: ChannelGraph, layer: str) -> ChannelSet:
    """The prunable set that holds the output channels of a layer."""
    for channel_set in graph.prunable_sets():
        for site in channel_set.sites:
            if site.side == "out" and graph.name_of(site.owner) == layer:
                return channel_set
    raise AssertionError(f"{layer} is not prunable: {graph.protected}")


def coupled(graph: ChannelGraph, layer: str, channel: int) -> dict[tuple[str, str], list[int]]:
    """Everything that goes with one output channel of a layer: (layer, side) -> channels."""
    channel_set = set_of(graph, layer)
    (own,) = [s for s in channel_set.sites if s.side == "out" and graph.name_of(s.owner) == layer]
    component = int(own.components[channel])
    found = {}
    for site in channel_set.sites:
        where = (site.components == component).nonzero().flatten().tolist()
        if where:
            found[graph.name_of(site.owner), site.side] = where
    return found


def halve(model: nn.Module, *shape: int, **options: Any) -> nn.Module:
    """Remove every second channel of every group from a copy; check that the copy runs alike."""
    model = copy.deepcopy(model)
    graph = graph_of(model, *shape, **options)
    for _, group in list(graph.named_groups()):
        group.prune(group[0].idxs[:1])
    return model


def runs(model: nn.Module, *shape: int) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(torch.randn(*(shape or (1, 1, TIME))))
    return y


def cutter(graph: ChannelGraph, layer: nn.Module, idxs: list[int]) -> ChannelGroup:
    handler = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, handler, idxs)


def add_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.make(x)
    y += net.other(x)
    return y


def shuffled(net: Net, x: Tensor) -> Tensor:
    y = net.make(x)
    return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


COUPLING: dict[str, tuple[Net, dict[str, int]]] = {
    "chain": (Net(lambda n, x: n.make(x).relu()), {"make": 8}),
    "add": (Net(lambda n, x: n.make(x) + n.other(x)), {"make": 8}),
    "in-place add": (Net(add_in_place), {"make": 8}),
    "gating": (Net(lambda n, x: n.make(x) * n.other(x).sigmoid()), {"make": 8}),
    "cat": (
        Net(lambda n, x: torch.cat([n.make(x), n.other(x)], 1), read=16),
        {"make": 8, "other": 8},
    ),
    "a parameter of two layers": (
        Net(
            lambda n, x: torch.cat([n.make(x) * n.gain, n.other(x) * n.gain], 1),
            read=16,
            gain=nn.Parameter(torch.rand(8, 1)),
        ),
        {"make": 8},
    ),
    "chunk": (Net(lambda n, x: torch.mul(*n.make(x).chunk(2, 1)), read=4), {"make": 4}),
    "chunks read apart": (
        Net(
            lambda n, x: torch.add(
                *(f(c) for f, c in zip(n.readers, n.make(x).chunk(2, 1), strict=True))
            ),
            readers=nn.ModuleList([nn.Conv1d(4, 8, 1), nn.Conv1d(4, 8, 1)]),
        ),
        {"make": 4, "readers.0": 8},
    ),
    "split": (
        Net(lambda n, x: torch.sub(*n.make(x).split(n.make.out_channels // 2, 1)), read=4),
        {"make": 4},
    ),
    "glu": (Net(lambda n, x: functional.glu(n.make(x), 1), read=4), {"make": 4}),
    "shuffle": (Net(shuffled), {"make": 4}),
    "pad and crop": (Net(lambda n, x: functional.pad(n.make(x), (2, 1))[..., 1:-1]), {"make": 8}),
    "pool and resize": (
        Net(
            lambda n, x: functional.interpolate(functional.avg_pool1d(n.make(x), 2), scale_factor=2)
        ),
        {"make": 8},
    ),
    "mean over time": (Net(lambda n, x: n.make(x).mean(-1, keepdim=True)), {"make": 8}),
    "softmax over time": (Net(lambda n, x: n.make(x).softmax(-1)), {"make": 8}),
    "flip in time": (Net(lambda n, x: n.make(x).flip(-1)), {"make": 8}),
    "indexed in time": (Net(lambda n, x: n.make(x)[..., torch.tensor([3, 1])]), {"make": 8}),
    "where": (Net(lambda n, x: torch.where(n.make(x) > 0, n.other(x), 0.0)), {"make": 8}),
    "a plain factor": (Net(lambda n, x: n.make(x) * x), {"make": 8}),
    "a bare parameter": (
        Net(lambda n, x: n.make(x) * n.gain, gain=nn.Parameter(torch.rand(8, 1))),
        {"make": 8},
    ),
    "norm and slopes": (
        Net(lambda n, x: n.slopes(n.norm(n.make(x))), norm=nn.BatchNorm1d(8), slopes=nn.PReLU(8)),
        {"make": 8},
    ),
    "grouped norm": (Net(lambda n, x: n.norm(n.make(x)), norm=nn.GroupNorm(2, 8)), {"make": 4}),
    "frames of a linear": (
        Net(lambda n, x: n.map(n.make(x).transpose(1, 2)).transpose(1, 2), map=nn.Linear(8, 8)),
        {"make": 8, "map": 8},
    ),
    "einsum": (Net(lambda n, x: torch.einsum("bct,bct->bct", n.make(x), n.other(x))), {"make": 8}),
    "unfold": (Net(lambda n, x: n.make(x).unfold(-1, 4, 2).flatten(2)), {"make": 8}),
    "fold": (
        Net(
            lambda n, x: functional.fold(
                functional.unfold(n.make(x).unsqueeze(-1), (4, 1), stride=(2, 1)),
                (TIME, 1),
                (4, 1),
                stride=(2, 1),
            ).squeeze(-1)
        ),
        {"make": 8},
    ),
    "twice": (Net(lambda n, x: n.mix(n.mix(n.make(x))), mix=nn.Conv1d(8, 8, 1)), {"make": 8}),
}


PROTECTED: dict[str, tuple[Net, str]] = {
    "unequal split": (
        Net(lambda n, x: n.make(x).split([2, 6], 1)[1], read=6),
        "channels are split into parts of different sizes",
    ),
    "slice": (
        Net(lambda n, x: n.make(x)[:, 2:6], read=4),
        "channels are cut out by fixed positions",
    ),
    "picked": (
        Net(lambda n, x: n.make(x)[:, 3:4], read=1),
        "channels are cut out by fixed positions",
    ),
    "index_select": (
        Net(lambda n, x: n.make(x).index_select(1, torch.tensor([0, 3])), read=2),
        "channels are picked by fixed positions",
    ),
    "unbind": (Net(lambda n, x: n.make(x).unbind(1)[0][:, None], read=1), "taken apart one by one"),
    "log of summed exponentials": (
        Net(lambda n, x: n.make(x) - n.make(x).logsumexp(1, keepdim=True)),
        "'logsumexp' pools over channels outside a known norm",
    ),
    "product of channels": (
        Net(lambda n, x: n.make(x) * n.make(x).prod(1, keepdim=True)),
        "'prod' pools over channels outside a known norm",
    ),
    "cumulative sum": (
        Net(lambda n, x: n.make(x).cumsum(1)),
        "all of its channels are coupled into one",
    ),
    "rolled": (Net(lambda n, x: n.make(x).roll(1, 1)), "channels are moved by 'roll'"),
    "outer product": (
        Net(lambda n, x: (n.make(x)[:, :, None] * n.other(x)[:, None]).flatten(1, 2), read=64),
        "an outer product of two channel axes",
    ),
    "gram matrix": (
        Net(lambda n, x: n.make(x) @ n.other(x).transpose(1, 2)),
        "a product of two channel axes",
    ),
    "qr": (Net(lambda n, x: torch.linalg.qr(n.make(x))[0]), "operation 'linalg_qr' has no rule"),
    "cdist": (Net(lambda n, x: torch.cdist(n.make(x), n.make(x))), "'_cdist_forward' has no rule"),
    "proj": (
        Net(
            lambda n, x: n.rnn(n.make(x).transpose(1, 2))[0].transpose(1, 2),
            read=3,
            rnn=nn.LSTM(8, 6, proj_size=3, batch_first=True),
        ),
        "layer 'rnn' cannot be cut: an LSTM with proj_size=3",
    ),
}


POOLING: dict[str, Net] = {
    "mean over channels": Net(lambda n, x: n.make(x).mean(1, keepdim=True), read=1),
    "mean over time and channels": Net(lambda n, x: n.make(x) - n.make(x).mean()),
    "highest channel": Net(lambda n, x: n.make(x) - n.make(x).amax(1, keepdim=True)),
    "deviation over channels": Net(lambda n, x: n.make(x) / n.make(x).std(1, keepdim=True)),
    "softmax over channels": Net(lambda n, x: n.make(x).softmax(1)),
    "layer norm over two axes": Net(lambda n, x: n.odd(n.make(x)), odd=nn.LayerNorm((8, TIME))),
}
"""``make`` can be cut, but its channels count in a statistic: zeros are not the same as none."""
