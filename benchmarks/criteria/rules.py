"""Ways to learn gates that the search benchmark compares, each as a rule from scores to gates.

The package has ``gumbel`` and ``hard concrete``, ahead or not; the others were tried against them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sepprune_tp import Budget, GateSet
from sepprune_tp.gates import Gumbel, HardConcrete
from sepprune_tp.search import select

__all__ = ["RULES", "Moment", "Rule"]


@dataclass(frozen=True)
class Moment:
    """Where a search is.

    Attributes:
        progress: Share of the steps that are done, 0 to 1.
        limit: Share of the MACs that is allowed now; falls from 1 to the budget.
        generator: Of all random numbers.
    """

    progress: float
    limit: float
    generator: torch.Generator


@dataclass(frozen=True)
class Rule:
    """How scores become gates.

    Attributes:
        start: Mean of the scores at the start.
        gates: (gate set, scores, moment) to gates (N,), differentiable in the scores.
        opened: Scores (N,) and the gates to what the cost is taken of, or None where nothing but
            the task acts on the scores.
        ahead: Whether open channels stand in for closed ones, as reconstruction will.
    """

    start: float
    gates: Callable[[GateSet, Tensor, Moment], Tensor]
    opened: Callable[[Tensor, Tensor, Moment], Tensor] | None
    ahead: bool = False


_CONCRETE, _GUMBEL = HardConcrete(), Gumbel()
_COLD = 0.2  # temperature of the deterministic gates at the end; 1 at the start


def _temperature(moment: Moment) -> float:
    return math.exp(math.log(_COLD) * moment.progress)


def _deterministic(gates: GateSet, scores: Tensor, moment: Moment) -> Tensor:
    """The hard concrete's stretched sigmoid without its noise, colder and colder."""
    value = torch.sigmoid(scores / _temperature(moment))
    return (value * 1.2 - 0.1).clamp(0, 1)


def _threshold(gates: GateSet, scores: Tensor, moment: Moment) -> Tensor:
    """Hard masks (score above 0) forward, a sigmoid backward."""
    hard = (scores.detach() > 0).to(scores.dtype)
    for group in gates.groups:
        if not bool(hard[group.gates].any()):
            hard[group.start + int(scores.detach()[group.gates].argmax())] = 1.0
    soft = torch.sigmoid(scores)
    return hard + soft - soft.detach()


def _top(gates: GateSet, scores: Tensor, moment: Moment) -> Tensor:
    """The masks that meet the limit of the moment forward, the scores themselves backward."""
    limits = Budget(macs=moment.limit).limits(gates)
    hard = select(gates.groups, scores.detach(), limits).to(scores.dtype)
    return hard + scores - scores.detach()


RULES: dict[str, Rule] = {
    "gumbel": Rule(0.5, lambda _, s, m: _GUMBEL.sample(s, m.generator), None),
    "hard concrete": Rule(
        2.0,
        lambda _, s, m: _CONCRETE.sample(s, m.generator),
        lambda s, v, m: _CONCRETE.open_probability(s),
    ),
    "hard concrete, ahead": Rule(
        2.0,
        lambda _, s, m: _CONCRETE.sample(s, m.generator),
        lambda s, v, m: _CONCRETE.open_probability(s),
        ahead=True,
    ),
    "deterministic": Rule(2.0, _deterministic, lambda s, v, m: torch.sigmoid(s / _temperature(m))),
    "straight-through": Rule(2.0, _threshold, lambda s, v, m: v),
    "straight-through, ahead": Rule(2.0, _threshold, lambda s, v, m: v, ahead=True),
    "top-k": Rule(0.0, _top, None),
}
"""By name. ``gumbel`` is the paper's, its scores ranked at the end; ``hard concrete`` is ours."""
