"""UDSP: the static channels of "BilevelPruning: unified dynamic and static channel pruning".

Source:
    Gao, Zhang, Huang and Huang, CVPR 2024, pages 16090 to 16100. There is no public code; what its
    abstract leaves open is taken from the same group's published methods (Network pruning via
    performance maximization, CVPR 2021; Auto-Train-Once, CVPR 2024, arXiv 2403.14729).

Two problems, one inside the other. The upper one finds static gates v, the output of a
hyper-network, on batches held out from the lower one: min L(w, v·d) + λ R(T(v), p T_total) with
R(T, b) = log(max(T, b) / b), T the MACs and p the budget. The lower one trains the weights w, and a
small network that closes some of the open channels for one mixture, v·d, on the other batches. They
take turns, a step each, the other one's variables held (the first-order form of bi-level methods).

What is ours, or a guess:

* R is in dB like the task loss, λ = 4, and the dynamic gates of a mixture are held at
  ``dynamic`` times the MACs of the static ones, or nothing would close them.
* Dynamic gates see the mean spectrum of the mixture, not the maps in front of each layer.
* Only the static choice counts. Weights are trained on a copy, as the lower problem asks, and
  forgotten: every criterion's masks are applied to the same dense weights. ``weights: frozen``
  leaves the dynamic gates alone to the lower problem.
* The thresholded gates meet a budget nearly; their logits are ranked to meet it exactly.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.criteria.base import Chosen, Search
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.hyper_network import OFFSET, excess, gumbel_sigmoid, seeded
from benchmarks.criteria.options import OptionError, one_of, positive, read
from benchmarks.criteria.ranking import together
from benchmarks.criteria.training import step, trainable
from sepprune_tp import GateSet
from sepprune_tp.losses import pit_neg_si_sdr

__all__ = ["Options", "choose"]


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        steps: Of both problems together; a batch of one mixture each.
        held_out: Share of the batches, and so of the steps, of the upper problem.
        lr: Of the hyper-network and the dynamic gates (Adam).
        weights: ``trained`` by the lower problem, on a copy, or ``frozen``.
        weights_lr: Of the weights (Adam).
        penalty: λ.
        dynamic: MACs that a mixture's gates leave at most, as a share of the static ones.
        clip: Norm of each gradient.
    """

    steps: int = 500
    held_out: float = 0.5
    lr: float = 1e-3
    weights: str = "trained"
    weights_lr: float = 1e-4
    penalty: float = 4.0
    dynamic: float = 0.9
    clip: float = 5.0

    def __post_init__(self) -> None:
        one_of("weights", self.weights, ("trained", "frozen"))
        positive(steps=self.steps, lr=self.lr, weights_lr=self.weights_lr, clip=self.clip)
        positive(penalty=self.penalty)
        if not (0 < self.held_out < 1 and 0 < self.dynamic <= 1):
            raise OptionError("held_out is in (0, 1), dynamic in (0, 1]")


def choose(search: Search) -> Chosen:
    """Learn static gates and keep the channels with the highest logits."""
    options = read(Options, search.options)
    gates = gates_of(replace(search, model=copy.deepcopy(search.model)))
    together(gates, gates.scores, search.budget)  # an unreachable budget is told before training
    problem = _Problem(gates, search, options)
    with trainable(gates):
        for number, (mixture, sources) in enumerate(search.batches(options.steps, 1)):
            upper = int((number + 1) * options.held_out) > int(number * options.held_out)
            problem.step(mixture, sources, upper)
    with torch.no_grad():
        logits = problem.static()
    opened = problem.cost(logits + OFFSET > 0) / gates.cost_model.dense.macs
    return Chosen(together(gates, logits, search.budget), {"thresholded macs_share": float(opened)})


class _Problem:
    """The networks of both problems and their optimizers."""

    def __init__(self, gates: GateSet, search: Search, options: Options) -> None:
        self._gates, self._options = gates, options
        self._bound = search.budget * gates.cost_model.dense.macs
        self._generator = torch.Generator().manual_seed(search.seed)
        static, dynamic = seeded(search.seed, [group.size for group in gates.groups])
        self._device = gates.scores.device
        self.static, self._dynamic = static.to(self._device), dynamic.to(self._device)
        groups = [{"params": list(dynamic.parameters()), "lr": options.lr}]
        if options.weights == "trained":
            weights = [p for p in gates.model.parameters() if p.requires_grad]
            groups.append({"params": weights, "lr": options.weights_lr})
        self._upper = torch.optim.Adam(static.parameters(), lr=options.lr)
        self._lower = torch.optim.Adam(groups)

    def cost(self, gates: Tensor) -> Tensor:
        """MACs with gates (N,), differentiable."""
        return self._gates.cost_model.expected(gates).macs

    def step(self, mixture: Tensor, sources: Tensor, upper: bool) -> None:
        """A step of one of the problems on one mixture (1, T) and its sources (1, S, T)."""
        mixture, sources = mixture.to(self._device), sources.to(self._device)
        with torch.set_grad_enabled(upper):
            static = gumbel_sigmoid(self.static(), self._generator)
        with torch.set_grad_enabled(not upper):
            dynamic = gumbel_sigmoid(self._dynamic(mixture), self._generator)
        opened = static * dynamic
        self._gates.use(opened)
        loss = pit_neg_si_sdr(self._gates.model(mixture), sources)
        if upper:
            over = excess(self.cost(static), self._bound)
        else:
            over = excess(self.cost(opened), self._options.dynamic * self.cost(static).detach())
        total = loss + self._options.penalty * over.to(loss.dtype)
        step(total, self._upper if upper else self._lower, self._options.clip)
