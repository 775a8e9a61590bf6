"""The trial: what a model does not run without stays, and the model never notices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from laws import assert_same, snapshot
from torch import Tensor, nn

from sepprune_tp.graph import ChannelGraph, trial

EXAMPLE = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))


class Numbered(nn.Module):
    """Two groups of channels; the size of the second one is a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv1d(1, 8, 1)
        self.fixed = nn.Conv1d(8, 6, 1)
        self.read = nn.Conv1d(6, 2, 1)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 2, T)."""
        return self.read(self.fixed(self.norm(self.make(x))).view(len(x), 6, -1))


class Reads(Numbered):
    """Looks at values, which a copy without data cannot."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T) -> (B, 2, T)."""
        return super().forward(x) * (1 if self.make.weight.sum().item() > 0 else 2)


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {name: group.channel_set.size for name, group in graph.named_groups()}


@pytest.mark.parametrize("large", [True, False])
def test_what_the_model_does_not_run_without_stays(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(trial, "_LARGE", 0)
    model = Numbered()
    graph = ChannelGraph("all").build_dependency(model, EXAMPLE)
    assert sizes(graph) == {"make": 8}
    reason = graph.protected["fixed"]
    assert reason.startswith("the model does not run without it (shape '[1, 6, -1]' is invalid")
    assert reason.endswith("is a size written as a number in its code?")
    for _, group in list(graph.named_groups()):
        group.prune([0, 3, 5])
    assert model(EXAMPLE).shape == (1, 2, 16)


def test_without_a_trial_the_pruned_model_fails() -> None:
    """A negative control."""
    model = Numbered()
    graph = ChannelGraph("all", trial=False).build_dependency(model, EXAMPLE)
    assert sizes(graph) == {"make": 8, "fixed": 6}
    assert graph.tried.skipped == "it was not asked for"
    for _, group in list(graph.named_groups()):
        group.prune([0])
    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        model(EXAMPLE)


def test_a_model_that_reads_values_is_copied_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LARGE", 0)

    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Numbered()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * (1 if x.sum().item() > 0 else 2)

    graph = ChannelGraph("all").build_dependency(Sign(), EXAMPLE)
    assert sizes(graph) == {"net.make": 8}
    assert graph.tried.skipped is None


def test_a_model_that_cannot_be_copied_says_so() -> None:
    model: Any = Numbered()
    model.cache = model.make.weight * 2  # torch refuses to copy a tensor with a history
    graph = ChannelGraph("all").build_dependency(model, EXAMPLE)
    assert str(graph.tried.skipped).startswith("a copy of the model does not run: Only Tensors")
    assert sizes(graph) == {"make": 8, "fixed": 6}


def test_a_trial_leaves_no_trace() -> None:
    model = Numbered().train()
    model(EXAMPLE).sum().backward()
    before, state = snapshot(model), torch.get_rng_state()
    untouched = copy.deepcopy(model)
    graph = ChannelGraph("all").build_dependency(model, EXAMPLE)
    assert graph.tried.refused
    assert_same(before, snapshot(model))
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        assert torch.equal(model.eval()(EXAMPLE), untouched.eval()(EXAMPLE))


def test_outputs_keep_their_shapes() -> None:
    """A model that takes its output size from a width would run, and give something else."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.read = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.make(x)).expand(-1, self.make.out_channels, -1)

    graph = ChannelGraph("all").build_dependency(Wide(), EXAMPLE)
    assert "make" in graph.protected
    assert "its outputs have other shapes" in graph.protected["make"]
