"""Ways to learn gates that were tried against the package's: a rule, a start and a loss.

All take the same steps on the same mixtures, tighten the limit on the MACs from the dense model to
the budget, and end with the best scores that meet it. The weights are frozen; where they learn
along, they are put back at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.criteria.base import Batch, Chosen, Search
from benchmarks.criteria.gating import gates_of
from benchmarks.criteria.options import OptionError, one_of, positive, read
from benchmarks.criteria.ranking import reaching, split
from benchmarks.criteria.rules import RULES, Moment
from benchmarks.criteria.training import step as take
from sepprune_tp import Budget, Distillation, GateSet, SepPrunePruner
from sepprune_tp.gates import Lookahead
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import select

__all__ = ["Options", "choose"]

STARTS = ("zero", "magnitude", "taylor")
LOSSES = ("task", "waveform", "task + waveform", "features", "task + features")
WARM_UP = 25  # steps that only measure sensitivities, where the start needs them
RAMP = 0.5  # share of the steps in which the limit falls to the budget
STIFFNESS, RISE = 50.0, 2.0  # of the constraint, as in the package
CLIP = 5.0


@dataclass(frozen=True)
class Options:
    """What to try.

    Attributes:
        rule: Of :data:`~benchmarks.criteria.rules.RULES`: how scores become gates.
        start: ``zero``, ``magnitude`` (torch-pruning's, of the weights) or ``taylor``: the scores
            at the start, by rank of their logarithm.
        loss: The task's, or a distillation from the dense model.
        steps: Of the search, one mixture each.
        lr: Of Adam.
        weights_lr: Of Adam on the weights; 0 for frozen ones.
    """

    rule: str = "hard concrete"
    start: str = "taylor"
    loss: str = "task"
    steps: int = 500
    lr: float = 0.1
    weights_lr: float = 0.0

    def __post_init__(self) -> None:
        one_of("rule", self.rule, tuple(RULES))
        one_of("start", self.start, STARTS)
        one_of("loss", self.loss, LOSSES)
        positive(steps=self.steps, lr=self.lr)
        if self.weights_lr < 0:
            raise OptionError(f"weights_lr={self.weights_lr}: 0 for frozen weights, or more")
        if self.weights_lr and (self.loss != "task" or RULES[self.rule].ahead):
            raise OptionError("weights_lr: with the task's loss only, and a rule not ahead")


def choose(search: Search) -> Chosen:
    """Learn scores and cut them to the budget."""
    options = read(Options, search.options)
    gates = gates_of(search)
    drawn = list(search.batches(options.steps, 1))
    with reaching(search.budget):
        return Chosen(split(gates, _learned(gates, drawn, options, search.budget, search.seed)))


def _learned(
    gates: GateSet, drawn: Sequence[Batch], options: Options, budget: float, seed: int
) -> Tensor:
    """True where a channel stays, shape (N,)."""
    limits, rule = Budget(macs=budget).limits(gates), RULES[options.rule]
    loss = _loss(options.loss, gates)
    generator = torch.Generator().manual_seed(seed)
    warm = min(WARM_UP, len(drawn) // 2) if options.start == "taylor" else 0
    model = gates.model.eval().requires_grad_(False)
    price = 0.0
    scores = (_start(options.start, gates, drawn[:warm]) + rule.start).requires_grad_()
    if rule.ahead:
        gates.lookahead = _observed(gates, drawn[:WARM_UP])
    optimizer = torch.optim.Adam([{"params": [scores], "lr": options.lr}])
    with gates, _learning_along(model, optimizer, options.weights_lr):
        for step in range(warm, len(drawn)):
            done = (step - warm) / (len(drawn) - warm)
            allowed = 1 + min(1.0, done / RAMP) * (budget - 1)
            moment = Moment(done, allowed, generator)
            mixture, sources = drawn[step]
            if isinstance(loss, Distillation):
                gates.use(torch.ones(len(gates)))
                loss.begin(mixture, model)
            values = rule.gates(gates, scores, moment)
            gates.use(values)
            total = loss(model(mixture), sources)
            if rule.opened is not None:
                expected = limits.expected(rule.opened(scores, values, moment))
                excess = (expected - allowed).sum()
                total = total + price * excess + STIFFNESS * excess.clamp(min=0) ** 2
                price = max(0.0, price + RISE * float(excess.detach()))
            take(total, optimizer, CLIP)
    gates.lookahead = None
    model.requires_grad_(True)
    return select(gates.groups, scores.detach(), limits)


@contextmanager
def _learning_along(model: nn.Module, optimizer: torch.optim.Adam, lr: float) -> Iterator[None]:
    """Train the weights with the scores, unless ``lr`` is 0; put them back at the end."""
    if lr == 0:
        yield
        return
    dense = copy.deepcopy(model.state_dict())
    optimizer.add_param_group({"params": list(model.requires_grad_().parameters()), "lr": lr})
    try:
        yield
    finally:
        model.load_state_dict(dense)
        model.zero_grad(set_to_none=True)


def _loss(name: str, gates: GateSet) -> Any:
    if name == "task":
        return pit_neg_si_sdr
    features = [g.name for g in gates.groups] if "features" in name else []
    return Distillation(
        task_weight=float("task" in name),
        waveform=1.0,
        features=dict.fromkeys(features, 1 / max(1, len(features))),
        kept=gates,
    )


def _start(start: str, gates: GateSet, drawn: Sequence[Batch]) -> Tensor:
    """Scores of mean 0 and deviation 1 (or all 0), shape (N,)."""
    if start == "zero":
        return torch.zeros(len(gates))
    found = _magnitudes(gates) if start == "magnitude" else _sensitivities(gates, drawn)
    level = torch.log(found + 1e-12)
    return ((level - level.mean()) / (level.std() + 1e-12)).clamp(-3, 3)


def _sensitivities(gates: GateSet, drawn: Sequence[Batch]) -> Tensor:
    """Mean |dL / dgate| with all gates open, shape (N,)."""
    total = torch.zeros(len(gates))
    with gates:
        for mixture, sources in drawn:
            values = torch.ones(len(gates)).requires_grad_()
            gates.use(values)
            loss = pit_neg_si_sdr(gates.model(mixture), sources)
            total += torch.autograd.grad(loss, values)[0].abs()
    return total / len(drawn)


def _observed(gates: GateSet, drawn: Sequence[Batch]) -> Lookahead:
    """What lets open channels stand in for closed ones, from the dense model on some batches."""
    ahead = gates.look_ahead()
    with torch.no_grad():
        for mixture, _ in drawn:
            with ahead.observing():
                gates.model(mixture)
    return ahead


def _magnitudes(gates: GateSet) -> Tensor:
    """Norm of the weights that make each gate's channels, by torch-pruning's criterion."""
    importance = tp.importance.GroupMagnitudeImportance(normalizer=None)
    example = gates.example_inputs
    pruner = SepPrunePruner(gates.model, example, importance, 0.5, gates.scope)
    found = torch.ones(len(gates))
    named = {group.name: group for group in gates.groups}
    for group in pruner.graph.get_all_groups([], pruner.root_module_types):
        name = pruner.graph.name_of(group[0].dep.target.module)
        score = pruner.estimate_importance(group)
        if score is not None and name in named:
            found[named[name].gates] = score
    return found
