"""Norms of people's own making are recognised by what they compute, and nothing else is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import randomised
from laws import far, keep_by, mixture, pruned_copy
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.recognised import RecognisedNormRule
from sepprune_tp.profile import profile


class GlobalNorm(nn.Module):
    """As in many separation toolkits; parameters (C, 1), a count and an epsilon of its own."""

    def __init__(self, dim: int, eps: float = 1e-7) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim, 1)), nn.Parameter(torch.zeros(dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2), keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=(1, 2), keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


class ChannelNorm(nn.Module):
    """Over the channels of each frame; a bias that comes first, maps of any rank."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta, self.gamma = (
            nn.Parameter(torch.zeros(channels)),
            nn.Parameter(torch.ones(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean) * (variance + 1e-8).rsqrt() * self.gamma.view(shape) + self.beta.view(
            shape
        )


class LastNorm(nn.LayerNorm):
    """torch's, turned round: its forward is not the one that a rule is registered for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class EachNorm(nn.Module):
    """Each channel alone, a gain only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.instance_norm(x, eps=1e-5)


class Unbiased(GlobalNorm):
    """Divides by N - 1: none of the norms that are known, and still exact."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean((1, 2), keepdim=True), x.var((1, 2), keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


class OnlyInTraining(GlobalNorm):
    """Something else in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if self.training else 1)


class Stacked(GlobalNorm):
    """A norm with a layer in it."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.more = nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "global": GlobalNorm,
    "channels": ChannelNorm,
    "last": LastNorm,
    "each": EachNorm,
}
OTHERS: dict[str, Callable[[int], nn.Module]] = {
    "unbiased": Unbiased,
    "training": OnlyInTraining,
    "stacked": Stacked,
}


class Net(nn.Module):
    """A residual stream with two norms of the same kind."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 12, 5), nn.Conv1d(12, 10, 3, padding=1)
        self.one, self.two = norm(12), norm(10)
        self.back, self.last = nn.Conv1d(10, 12, 1), nn.Conv1d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.first(x.unsqueeze(1)))
        return self.last(x + self.back(torch.relu(self.two(self.second(x)))))


@pytest.mark.parametrize("kind", NORMS | OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gated_is_pruned(kind: str, dtype: torch.dtype) -> None:
    """What is not taken for a norm is followed operation by operation."""
    example = mixture(1, 60, dtype=dtype)
    norm = (NORMS | OTHERS)[kind]
    gates = GateSet(randomised(lambda: Net(norm), 0, dtype), example, scope="all")
    assert {group.name: group.size for group in gates.groups} == {"first": 12, "second": 10}
    gates.load_masks(keep_by(gates, "odd"))
    pruned: Any = pruned_copy(gates, example)
    for shape in ((1, 60), (3, 41)):
        x = mixture(*shape, seed=1, dtype=dtype)
        with torch.no_grad(), gates:
            masked = gates.model(x)
        with torch.no_grad():
            assert far(pruned(x), masked) < (1e-5 if dtype == torch.float32 else 1e-10)
            assert far(gates.model(x), masked) > 1e-2
    assert profile(pruned, example).params == gates.cost().params
    kept = int(gates.masks()["first"].sum())
    assert all(p.numel() == kept for p in pruned.one.parameters())
    if kind == "global":
        assert pruned.one.dim == kept and pruned.two.dim != kept


@pytest.mark.parametrize("kind", OTHERS)
def test_what_computes_something_else_is_not_taken_for_a_norm(kind: str) -> None:
    model = Net(OTHERS[kind])
    assert rule_of(model.one) is None
    graph = ChannelGraph("all").build_dependency(model, torch.randn(1, 60))
    assert graph.protected.keys() == {"last"}


def test_a_norm_over_the_order_of_channels_stays() -> None:
    class Cumulative(GlobalNorm):
        """Each channel by the mean of those before it."""

        def forward(self, x: Tensor) -> Tensor:
            count = torch.arange(1, 1 + x.size(1))[:, None]
            return super().forward(x - x.cumsum(1) / count)

    model = Net(Cumulative)
    assert rule_of(model.one) is None
    graph = ChannelGraph("all").build_dependency(model, torch.randn(1, 60))
    assert graph.protected["first"] == "all of its channels are coupled into one"
    assert not list(graph.named_groups())


def test_recognising_leaves_no_trace() -> None:
    module, state = GlobalNorm(6), torch.get_rng_state()
    before = copy.deepcopy(module.state_dict())
    assert isinstance(rule_of(module), RecognisedNormRule)
    assert rule_of(module) is rule_of(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training and all(
        torch.equal(before[k], v) for k, v in module.state_dict().items()
    )


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma[:, None]

    assert rule_of(Scale()) is None
    assert rule_of(nn.Sequential(GlobalNorm(6))) is None
    assert rule_of(nn.Identity()) is None
