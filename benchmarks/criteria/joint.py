"""Joint optimisation: masks and weights learned at once, the paper's ablation.

Source:
    SepPrune, arXiv 2505.12079, the ablation of search-then-fine-tune against joint optimisation.
    It gives no recipe: scores are trained as in the published search (Adam, lr 0.1), weights as in
    the recipe of the dense model (Adam, lr 1e-3), each clipped to a norm of 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.criteria.base import Chosen, Search
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.options import one_of, positive, read
from benchmarks.criteria.ranking import together
from benchmarks.criteria.training import step, trainable
from sepprune_tp import GateSet
from sepprune_tp.losses import pit_neg_si_sdr

__all__ = ["Options", "choose"]

STIFFNESS = 50.0  # dB for the whole cost of the dense model, squared excess; as in the package
RISE = 2.0  # of the multiplier in one step, per unit of excess
RAMP = 0.5  # share of the steps in which the limit falls from the dense cost to the budget


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        kind: ``gumbel``: the published gates, no cost in the loss; ``budget``: ours, whose expected
            MACs are held below a limit that falls to the budget.
        steps: Of the training.
        batch: Mixtures in a step.
        lr: Of the scores.
        weights_lr: Of the weights.
        clip: Norm of each of their gradients.
    """

    kind: str = "gumbel"
    steps: int = 500
    batch: int = 1
    lr: float = 0.1
    weights_lr: float = 1e-3
    clip: float = 5.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("gumbel", "budget"))
        positive(steps=self.steps, batch=self.batch, lr=self.lr)
        positive(weights_lr=self.weights_lr, clip=self.clip)


def choose(search: Search) -> Chosen:
    """Train ``search.model`` with gates; it keeps its new weights."""
    options = read(Options, search.options)
    gates = gates_of(search, options.kind)
    together(gates, gates.scores, search.budget)  # an unreachable budget is told before training
    scores = nn.Parameter(gates.scores)
    weights = [parameter for parameter in gates.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(
        [{"params": [scores], "lr": options.lr}, {"params": weights, "lr": options.weights_lr}]
    )
    constraint = _Constraint(gates, search.budget, options.steps)
    with trainable(gates):
        for mixture, sources in search.batches(options.steps, options.batch):
            gates.use(gates.kind.sample(scores, gates.generator))
            loss = pit_neg_si_sdr(gates.model(mixture.to(scores.device)), sources.to(scores.device))
            if options.kind == "budget":
                loss = loss + constraint(scores)
            step(loss, optimizer, options.clip)
    return Chosen(together(gates, scores, search.budget), {"weights": "trained with the masks"})


class _Constraint:
    """The price of expected MACs above a limit: a multiplier that rises, and their square."""

    def __init__(self, gates: GateSet, budget: float, steps: int) -> None:
        self._gates, self._budget = gates, budget
        self._ramp = max(1.0, RAMP * steps)
        self._calls, self._multiplier = 0, 0.0

    def __call__(self, scores: Tensor) -> Tensor:
        self._calls += 1
        limit = 1 + min(1.0, self._calls / self._ramp) * (self._budget - 1)
        model = self._gates.cost_model
        share = model.expected(self._gates.kind.open_probability(scores)).macs / model.dense.macs
        excess = share - limit
        price = self._multiplier * excess + STIFFNESS * excess.clamp(min=0).square()
        self._multiplier = max(0.0, self._multiplier + RISE * float(excess.detach()))
        return price.to(scores.dtype)
