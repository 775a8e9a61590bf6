"""The invariants of a search: it leaves no trace; the same seed, the same masks, also when killed.

Each architecture supplies only its model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import SEPARATORS, shape_of
from laws import TIME, assert_same, example, gated, mixture, snapshot
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import Budget, learn_gates


@pytest.mark.parametrize("name", SEPARATORS)
@pytest.mark.parametrize("scope", ["separator", "all"])
def test_search_leaves_no_trace(name: str, scope: str) -> None:
    gates = gated(name, scope)
    model = gates.model
    flagged = next(iter(model.parameters()))
    flagged.requires_grad_(False)  # flags and modes that differ between parts must come back
    next(iter(model.children())).train()
    before = snapshot(model)
    try:
        batches = batches_for(name, model)
        learn_gates(gates, batches, budget=Budget(params=0.95), steps=3, progress=False)
        assert_same(before, snapshot(model))
        with pytest.raises(RuntimeError, match="stop"), gates:
            raise RuntimeError("stop")
        assert_same(before, snapshot(model))
    finally:
        flagged.requires_grad_(True)
        model.eval()


def batches_for(name: str, model: nn.Module, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        sources = model(example(name, 2)).shape[1]
    pieces = [mixture(2, sources, TIME, seed=10 + i) for i in range(count)]
    shape = shape_of(name, 2, TIME)
    return [(piece.sum(1, keepdim=len(shape) > 2).expand(shape), piece) for piece in pieces]


def search(kind: str, seed: int = 0, **options: Any) -> GateSet:
    gates = GateSet(gated("ConvTasNet-gLN", "all").model, mixture(1, TIME), "all", kind)
    budget = Budget(macs=0.6) if kind == "budget" else None
    given_ = {"steps": 6, "progress": False, "budget": budget, "seed": seed, **options}
    learn_gates(gates, batches_for("ConvTasNet-gLN", gates.model), **given_)
    return gates


@pytest.mark.parametrize("kind", ["budget", "gumbel"])
def test_same_seed_same_masks(kind: str) -> None:
    state = torch.random.get_rng_state()
    one, again, other = search(kind), search(kind), search(kind, seed=1)
    assert torch.equal(one.scores, again.scores)
    assert torch.equal(one.keep, again.keep)
    assert not torch.equal(one.scores, other.scores)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["budget", "gumbel"])
@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_killed_and_resumed_ends_in_the_same_place(
    kind: str, killed_at: int, tmp_path: Path
) -> None:
    calls = 0

    def dies(estimates: Tensor, sources: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > killed_at:
            raise KeyboardInterrupt
        return pit_neg_si_sdr(estimates, sources)

    file = tmp_path / "search.pt"
    with pytest.raises(KeyboardInterrupt):
        search(kind, loss=dies, checkpoint=file, checkpoint_every=1)
    assert calls == killed_at + 1 and file.exists()
    calls = -100
    resumed = search(kind, loss=dies, checkpoint=file, checkpoint_every=1)
    assert calls == -100 + 6 - killed_at  # it did not start over
    whole = search(kind)
    assert torch.equal(resumed.scores, whole.scores)
    assert torch.equal(resumed.keep, whole.keep)
