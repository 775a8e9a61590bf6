"""Networks and helpers of the tests of misuse."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner

X = torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(0))
MAGNITUDE = tp.importance.GroupMagnitudeImportance()


class Chain(nn.Module):
    """Three convolutions: 1 -> 8 -> 6 -> 1."""

    def __init__(self, first: int = 8, second: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one, self.two = nn.Conv1d(1, first, 3), nn.Conv1d(first, second, 3)
            self.three = nn.Conv1d(second, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.three(self.two(self.one(x).relu()).relu())
        return y


def chain(first: int = 8, second: int = 6) -> Chain:
    return Chain(first, second).double().eval()


def gates_of(model: nn.Module, scope: Any = "all", **options: Any) -> GateSet:
    return GateSet(model, X.to(next(model.parameters()).dtype), scope, **options)


def halved(model: nn.Module, **options: Any) -> GateSet:
    """Gates that keep the first half of every group."""
    gates = gates_of(model, **options)
    gates.load_masks({g.name: torch.arange(g.size) < g.size // 2 for g in gates.groups})
    return gates


def pruner(model: nn.Module, importance: Any, *ratio: Any, **options: Any) -> SepPrunePruner:
    if isinstance(importance, GateSet):
        importance = SepPruneImportance(importance)
    elif not isinstance(importance, SepPruneImportance):
        options.setdefault("scope", "all")
    return SepPrunePruner(
        model, X.to(next(model.parameters()).dtype), importance, *ratio, **options
    )


def pruned(model: nn.Module, gates: GateSet) -> nn.Module:
    """A copy without what the gates close."""
    model = copy.deepcopy(model)
    pruner(model, gates).step()
    return model


def sizes(model: nn.Module) -> list[int]:
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv1d)]


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def outputs_alike(gates: GateSet, cut: nn.Module, x: Tensor) -> bool:
    """Whether the gated model gives what a cut one gives, in double precision."""
    with torch.no_grad(), gates:
        gated = gates.model(x)
    with torch.no_grad():
        return bool((gated - cut(x)).abs().max() <= 1e-10 * gated.abs().max())
