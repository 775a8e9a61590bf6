"""The cost of the graph grows with the size of the model, not faster."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import graph_of
from torch import Tensor, nn

from sepprune_tp.graph import ChannelGraph


class Residual(nn.Module):
    """A stream through many blocks: every addition meets the same channels again."""

    def __init__(self, blocks: int, width: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, width, 1), nn.Conv1d(width, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, width, 1))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Concatenated(nn.Module):
    """As in DenseNet: every layer reads all before it, so inputs grow with the square of depth."""

    def __init__(self, layers: int, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, width, 1), nn.Conv1d(width * (layers + 1), 1, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(width * (index + 1), width, 1) for index in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        made = [self.first(x)]
        for layer in self.layers:
            made.append(layer(torch.cat(made, 1)))
        return self.last(torch.cat(made, 1))


def inputs_of(model: nn.Module) -> int:
    """Input channels of all layers: what the graph has to write down."""
    return sum(m.in_channels for m in model.modules() if isinstance(m, nn.Conv1d))


def seconds(model: nn.Module) -> float:
    """The quickest of three rounds over all groups: each whole, and with one channel."""
    best = float("inf")
    graph = graph_of(model, 1, 1, 8)
    for _ in range(3):
        gc.collect()
        began = time.process_time()
        for group in list(graph.get_all_groups()):
            dep = group[0].dep
            graph.get_pruning_group(dep.target.module, dep.handler, group[0].idxs[:1])
        best = min(best, time.process_time() - began)
    return best


def building(model: nn.Module) -> float:
    """The quickest of three builds."""
    times = []
    for _ in range(3):
        gc.collect()
        began = time.process_time()
        graph_of(model, 1, 1, 8)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize("measure", [building, seconds])
@pytest.mark.parametrize(("kind", "few", "many"), [(Residual, 25, 400), (Concatenated, 20, 120)])
def test_time_grows_with_the_model(
    kind: Callable[[int], nn.Module], few: int, many: int, measure: Callable[[nn.Module], float]
) -> None:
    """In proportion to the channels that the layers read, with a margin for a busy machine."""
    small, large = kind(few), kind(many)
    growth = max(many / few, inputs_of(large) / inputs_of(small))
    assert measure(large) < 2 * growth * measure(small)


def test_the_forest_holds_one_edge_a_union() -> None:
    """However often channels meet, what is remembered of it is bounded by their number."""
    graph: ChannelGraph = graph_of(Residual(20), 1, 1, 8)
    labels = int(graph.channels.roots().numel())
    roots = torch.unique(graph.channels.roots()).numel()
    assert len(graph.channels.meetings.one) == labels - roots
    # one for each addition that united something, and two of what is settled afterwards
    assert len(graph.channels.places) <= 20 + 2


# -- of a full-size model ------------------------------------------------------------------------

FULL_SIZE = """
import json, resource, time
import torch
from asteroid.models import ConvTasNet
from sepprune_tp.graph import ChannelGraph

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

with torch.random.fork_rng():
    model, x = ConvTasNet(n_src=2).eval(), torch.randn(1, 16000)
small = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 1), torch.nn.Conv1d(4, 1, 1))
ChannelGraph("all").build_dependency(small, torch.randn(1, 1, 8))  # what a first trace imports
start, began = peak(), time.process_time()
graph = ChannelGraph("all").build_dependency(model, x)
taken = time.process_time() - began
sizes = {name: group.channel_set.size for name, group in graph.named_groups()}
print(json.dumps({"seconds": taken, "bytes": peak() - start, "sizes": sizes}))
"""


def test_full_size_conv_tasnet_is_fast_and_small(
    record_property: Callable[[str, Any], None],
) -> None:
    pytest.importorskip("asteroid", reason="needs the extra 'asteroid'")
    command = [sys.executable, "-c", FULL_SIZE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("seconds", found["seconds"])
    record_property("extra_bytes", found["bytes"])
    assert found["seconds"] < 6  # CPU seconds; 2 on an idle machine
    assert found["bytes"] < 1e9
    hidden = [size for name, size in found["sizes"].items() if "shared_block" in name]
    assert hidden == [512] * 24
    assert found["sizes"]["encoder"] == 512 and found["sizes"]["masker.bottleneck.1"] == 128
