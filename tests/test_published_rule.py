"""The paper's rule is as published; the samples of both rules are as likely as they say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from search_cases import gates_of, learn
from torch import Tensor

from sepprune_tp.gates import HardConcrete
from sepprune_tp.gates.parametrisation import Gumbel, parametrisation
from sepprune_tp.search import Budget
from sepprune_tp.search.selection import select


def test_gumbel_samples_by_hand() -> None:
    rule = parametrisation("gumbel")
    scores = torch.linspace(-2, 3, 400, requires_grad=True)
    gates = rule.sample(scores, torch.Generator().manual_seed(7))
    uniform = torch.rand(400, generator=torch.Generator().manual_seed(7)).tolist()
    slopes = [(-1) ** i * 0.02 * i for i in range(400)]  # up to 8: most are clipped
    (found,) = torch.autograd.grad(gates, scores, torch.tensor(slopes))
    for i, (alpha, u) in enumerate(zip(scores.tolist(), uniform, strict=True)):
        pi = 1 / (1 + math.exp(-(alpha - math.log(-math.log(u)))))
        assert gates[i] == float(pi > 0.7)
        clipped = max(-1.0, min(1.0, slopes[i]))
        assert float(found[i]) == pytest.approx(clipped * pi * (1 - pi), rel=1e-3, abs=1e-6)
    assert 0.1 < float(gates.detach().mean()) < 0.9


def test_gumbel_starts_between_zero_and_one() -> None:
    scores = Gumbel().initial(500, torch.Generator().manual_seed(0))
    assert 0 <= float(scores.min()) < 0.1 and 0.9 < float(scores.max()) < 1
    assert (Gumbel().threshold, Gumbel().temperature) == (0.7, 1.0)


@pytest.mark.parametrize("rule", [Gumbel(), Gumbel(0.5, 2.0), HardConcrete()])
def test_open_probability_is_that_of_the_samples(rule: Any) -> None:
    for score in (-2.0, 0.0, 1.5):
        scores = torch.full((40_000,), score)
        share = float((rule.sample(scores, torch.Generator().manual_seed(1)) > 0).float().mean())
        assert share == pytest.approx(float(rule.open_probability(torch.tensor(score))), abs=0.012)


def test_hard_concrete_gates() -> None:
    rule, scores = HardConcrete(), torch.zeros(5000, requires_grad=True)
    gates = rule.sample(scores, torch.Generator().manual_seed(0))
    assert float(gates.min()) == 0 and float(gates.max()) == 1
    assert 0.2 < float(((gates > 0) & (gates < 1)).float().mean()) < 0.9
    gates.sum().backward()
    inside = (gates > 0) & (gates < 1)
    assert bool((scores.grad[inside] > 0).all()) and bool((scores.grad[~inside] == 0).all())


class Recording(Gumbel):
    """Remembers its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Tensor] = []

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        gates = super().sample(scores, generator)
        self.samples.append(gates.detach().clone())
        return gates


def test_the_final_mask_is_the_last_sample() -> None:
    rule = Recording()
    gates = gates_of(rule)
    result = learn(gates, steps=6)
    assert len(rule.samples) == 6
    last = rule.samples[-1] > 0
    assert not torch.equal(last, rule.samples[-2] > 0)
    for group in gates.groups:
        expected = last[group.gates]
        if expected.any():
            assert torch.equal(gates.masks()[group.name], expected)
    assert result.history[-1]["macs"] == gates.cost().macs / gates.cost_model.dense.macs


def test_the_published_rule_with_a_budget_is_ranked() -> None:
    gates = gates_of("gumbel")
    learn(gates, budget=Budget(macs=0.5))
    expected = select(gates.groups, gates.scores, Budget(macs=0.5).limits(gates))
    assert torch.equal(gates.keep, expected)
    assert gates.cost().macs <= 0.5 * gates.cost_model.dense.macs


def test_the_published_rule_learns_by_adam_alone() -> None:
    """One step from the start: each score moves by lr against the sign of its gradient."""
    gates = gates_of("gumbel")
    learn(gates, steps=1, lr=0.1)
    start = Gumbel().initial(len(gates), torch.Generator().manual_seed(0))
    moved = (gates.scores - start).abs()
    assert bool(((moved < 1e-6) | ((moved - 0.1).abs() < 1e-3)).all())
    assert float(moved.max()) > 0.09
