"""How much of an example the graph runs on: short where that is enough, longer where not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import Net, sizes
from torch import Tensor, nn

from sepprune_tp import ChannelGraph


def lengths_seen(middle: Callable[[Net, Tensor], Tensor], *shape: int, **layers: Any) -> list[int]:
    """Lengths of the inputs that the model was called with while its graph was built."""
    seen: list[int] = []

    def watched(net: Net, x: Tensor) -> Tensor:
        seen.append(x.size(-1))
        return middle(net, x)

    ChannelGraph("all", trial=False).build_dependency(Net(watched, **layers), torch.randn(*shape))
    return seen


def test_a_long_example_is_cut_short() -> None:
    assert lengths_seen(lambda n, x: n.make(x), 1, 1, 16000) == [1000]
    assert lengths_seen(lambda n, x: n.make(x), 1, 1, 2000) == [2000]


def test_too_short_for_the_model() -> None:
    """A filter of 1024 samples does not run on 1000: the next length does."""
    seen = lengths_seen(
        lambda n, x: n.make(x) + n.wide(x).mean(-1, keepdim=True),
        *(1, 1, 16000),
        wide=nn.Conv1d(1, 8, 1024),
    )
    assert seen == [1000, 4000]


def test_an_axis_that_collapses_only_when_short() -> None:
    """Where 1000 samples would leave a layer one frame, and the example has more, they are not
    trusted; a layer that sees one frame in any case changes nothing."""
    frames = {"coarse": nn.Conv1d(8, 8, 1, stride=900), "after": nn.Conv1d(8, 8, 1)}

    def coarse(net: Net, x: Tensor) -> Tensor:
        return net.after(net.coarse(net.make(x)[..., :-150]))

    def pooled(net: Net, x: Tensor) -> Tensor:
        y = net.make(x)
        return y * net.after(y.mean(-1, keepdim=True))

    assert lengths_seen(coarse, 1, 1, 16000, **copy.deepcopy(frames)) == [1000, 16000, 4000]
    assert lengths_seen(pooled, 1, 1, 16000, **copy.deepcopy(frames)) == [1000, 16000]


@pytest.mark.parametrize("dims", [(4,), (3, 4), (2, 3, 4)])
def test_every_waveform_of_an_example_is_cut(dims: tuple[int, ...]) -> None:
    """Several inputs of one length, by position or by name, with or without a microphone axis."""
    shapes: list[tuple[int, ...]] = []

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.read = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 1, 1)

        def forward(self, mix: Tensor, hint: Tensor, size: Tensor) -> Tensor:
            shapes.extend([tuple(mix.shape), tuple(hint.shape), tuple(size.shape)])
            both = (mix + hint).reshape(-1, 1, mix.size(-1))
            return self.read(self.make(both))

    lead = dims[:-1]
    example = (torch.randn(*lead, 9000), torch.randn(*lead, 9000), torch.zeros(5))
    names = ("mix", "hint", "size")
    by_position, by_name = (
        ChannelGraph("all", trial=False).build_dependency(Two(), inputs)
        for inputs in (example, dict(zip(names, example, strict=True)))
    )
    assert sizes(by_position) == sizes(by_name) == {"make": 8}
    assert shapes == [(*lead, 1000), (*lead, 1000), (5,)] * 2
