"""Two ways to turn learned scores into gates: the paper's and ours.

Both map a vector of scores (N,) to gates (N,): random ones to learn with, and a decision at last.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["Gumbel", "HardConcrete", "Parametrisation", "parametrisation"]


class Parametrisation(ABC):
    """Scores to gates. Gates lie in [0, 1]; a closed gate is exactly 0."""

    name: str

    @abstractmethod
    def initial(self, count: int, generator: torch.Generator) -> Tensor:
        """Scores to start from, shape (count,)."""

    @abstractmethod
    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Random gates for one training step, differentiable in ``scores``."""

    @abstractmethod
    def open_probability(self, scores: Tensor) -> Tensor:
        """Probability that each gate is open, differentiable in ``scores``."""


class _ThresholdStraightThrough(torch.autograd.Function):
    """(sign(p - eps) + 1) / 2 forward; the gradient clipped to [-1, 1] backward."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor, threshold: float) -> Tensor:
        return (torch.sign(probability - threshold) + 1) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-1, 1), None


class Gumbel(Parametrisation):
    """The published rule: sigmoid of the score plus a Gumbel sample, cut at a threshold.

    Source:
        SepPrune, arXiv 2505.12079, equations 3 to 5; alpha ~ U(0, 1) at the start and the sigmoid
        form as in the authors' scripts.

    Args:
        threshold: epsilon; a gate is open where pi is above it.
        temperature: tau.
    """

    name = "gumbel"

    def __init__(self, threshold: float = 0.7, temperature: float = 1.0) -> None:
        self.threshold, self.temperature = threshold, temperature

    def initial(self, count: int, generator: torch.Generator) -> Tensor:
        """Scores drawn from U(0, 1), shape (count,)."""
        return torch.rand(count, generator=generator)

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Gates 0 or 1; the gradient goes straight through, clipped to [-1, 1]."""
        uniform = _uniform(scores, generator)
        noise = -torch.log(-torch.log(uniform))
        probability = torch.sigmoid((scores + noise) / self.temperature)
        gates: Tensor = _ThresholdStraightThrough.apply(probability, self.threshold)
        return gates

    def open_probability(self, scores: Tensor) -> Tensor:
        """P(score + g > tau logit(epsilon)) with g of the standard Gumbel distribution."""
        limit = self.temperature * math.log(self.threshold / (1 - self.threshold)) - scores
        return 1 - torch.exp(-torch.exp(-limit))


class HardConcrete(Parametrisation):
    """Gates that are exactly 0 or 1 with positive probability, and smooth in between.

    Source:
        Louizos, Welling and Kingma, "Learning sparse neural networks through L0 regularization",
        ICLR 2018, equations 10 to 12, with their constants.

    Args:
        temperature: beta.
        low: gamma, the lower end of the stretched interval.
        high: zeta, its upper end.
        start: Score of every gate at the start (open with probability 0.97 at 2.0).
    """

    name = "budget"

    def __init__(
        self, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1, start: float = 2.0
    ) -> None:
        self.temperature, self.low, self.high, self.start = temperature, low, high, start

    def initial(self, count: int, generator: torch.Generator) -> Tensor:
        """The same score for all, shape (count,)."""
        return torch.full((count,), self.start)

    def sample(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Gates in [0, 1], both ends included: a stretched and clipped binary concrete."""
        uniform = _uniform(scores, generator)
        noise = torch.log(uniform) - torch.log1p(-uniform)
        return self._stretch(torch.sigmoid((scores + noise) / self.temperature))

    def open_probability(self, scores: Tensor) -> Tensor:
        """P(gate > 0), equation 12."""
        return torch.sigmoid(scores - self.temperature * math.log(-self.low / self.high))

    def _stretch(self, value: Tensor) -> Tensor:
        return (value * (self.high - self.low) + self.low).clamp(0, 1)


def _uniform(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1), drawn on the CPU so that every device sees the same."""
    tiny = 1e-6
    draws = torch.rand(scores.shape, generator=generator).clamp(tiny, 1 - tiny)
    return draws.to(device=scores.device, dtype=scores.dtype)


_KINDS: dict[str, type[Parametrisation]] = {"gumbel": Gumbel, "budget": HardConcrete}


def parametrisation(kind: str | Parametrisation) -> Parametrisation:
    """The parametrisation of a name.

    Raises:
        InputError: If there is none of that name.
    """
    if isinstance(kind, Parametrisation):
        return kind
    if kind not in _KINDS:
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(map(repr, _KINDS))}")
    return _KINDS[kind]()
