"""A separator that is searched in no time, batches for it, and searches of a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.gates.parametrisation import Gumbel
from sepprune_tp.search import Budget, SearchResult, learn_gates

TIME = 64


class Separator(nn.Module):
    """Encoder, a masker with two hidden layers and a residual, decoder: (B, T) -> (B, 2, T)."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = nn.Conv1d(1, 8, 5, padding=2)
            self.masker = nn.Sequential(
                nn.Conv1d(8, hidden, 1),
                nn.GroupNorm(1, hidden),
                nn.ReLU(),
                nn.Conv1d(hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv1d(hidden, 16, 1),
            )
            self.decoder = nn.Conv1d(8, 1, 5, padding=2)

    def forward(self, mixture: Tensor) -> Tensor:
        encoded = self.encoder(mixture[:, None])
        masks = self.masker(encoded).unflatten(1, (2, 8)).sigmoid()
        return torch.cat([self.decoder(masks[:, s] * encoded) for s in (0, 1)], 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batches(count: int = 3, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    sources = [noise(size, 2, TIME, seed=i) for i in range(count)]
    return [(s.sum(1), s) for s in sources]


def gates_of(kind: Any = "budget", scope: Any = "all", model: nn.Module | None = None) -> GateSet:
    return GateSet(Separator().eval() if model is None else model, noise(1, TIME), scope, kind)


def learn(gates: GateSet, **options: Any) -> SearchResult:
    given_ = {"batches": batches(), "steps": 4, "progress": False, **options}
    if not isinstance(gates.kind, Gumbel):
        given_.setdefault("budget", Budget(macs=0.7))
    return learn_gates(gates, **given_)
