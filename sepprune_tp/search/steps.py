"""One search, step by step: what a batch says about the gates, and what is done about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import eval_mode, recurrent_gradients
from ..distillation import announce
from ..errors import BudgetError, InputError, SearchError
from ..gates import GateSet, HardConcrete
from ..losses import MAX_SOURCES, pit_si_sdr
from .budget import Budget
from .diagnosis import blame, check_gradient
from .limits import Limits
from .masks import Spent, settled, spent
from .processes import Processes
from .ranking import smallest
from .rounding import RoundTo, steps_for
from .state import SearchState

__all__ = ["Batch", "Loss", "Search"]

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
# Of the constraint, in dB of SI-SDR for the whole cost of the dense model; the task loss is in dB.
_STIFFNESS = 50.0
_RISE = 2.0  # of a multiplier in one step, per unit of excess
_TIGHTENING = 0.5  # share of the steps in which the limit goes from the dense cost to the budget
_SPREAD = 1.0  # of the scores at the start, in standard deviations of log sensitivity


class Search:
    """Learns the scores of gates, a batch at a time; who has the batches decides when.

    Attributes:
        gates: The gates.
        state: What a step changes, beside the scores and the generator of the gates.
        settings: What it was started with; a resumed search must agree.
        processes: Those that search together.
        steps: Optimisation steps in all.
    """

    def __init__(
        self,
        gates: GateSet,
        budget: Budget | None,
        *,
        steps: int,
        lr: float,
        seed: int,
        clip: float,
        lookahead: bool,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Begin anew; arguments as of :func:`~sepprune_tp.search.learn_gates`.

        Raises:
            BudgetError: If a budget is missing or out of reach.
            InputError: If a setting is wrong, or processes were given different ones.
        """
        if steps < 1:
            raise InputError(f"steps={steps}: a search takes at least one step")
        if lookahead and not isinstance(gates.kind, HardConcrete):
            raise InputError(
                f"lookahead=True with kind={gates.kind.name!r}: only kind='budget' looks ahead. "
                "Leave it out, or make the gates with kind='budget'."
            )
        self.gates, self.steps = gates, steps
        self.processes = Processes(gates.scores.device)
        self._clip, self._autocast = clip, autocast
        self._limits = self.processes.in_turn(lambda: _limits(gates, budget))
        self._learns = self._limits is not None and isinstance(gates.kind, HardConcrete)
        self._warm_up = _warm_up(steps) if self._learns else 0  # the published rule has none
        generator = gates.generator.manual_seed(seed)
        scores = gates.kind.initial(len(gates), generator).to(gates.scores.device)
        gates.scores = nn.Parameter(scores)
        self.state = SearchState(
            step=0,
            optimizer=torch.optim.Adam([gates.scores], lr=lr),
            multipliers=torch.zeros(
                0 if self._limits is None else len(self._limits), dtype=torch.float64
            ),
            taylor=torch.zeros(len(gates)),
            last=torch.ones(len(gates)),
            history=[],
            ahead=gates.look_ahead() if lookahead else None,
        )
        self.settings: dict[str, Any] = {
            "steps": steps,
            "lr": lr,
            "seed": seed,
            "kind": gates.kind.name,
            "gates": len(gates),
            "budget": None if budget is None else asdict(budget),
            "clip": clip,
            "autocast": str(autocast),
            "lookahead": lookahead,
        }
        self.processes.check_same(self.settings)

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.state.step >= self.steps

    @contextmanager
    def running(self) -> Iterator[None]:
        """Gate the model, with frozen weights and statistics; leave it as it was."""
        gates, state = self.gates, self.state
        gates.lookahead = state.ahead if state.step >= _warm_up(self.steps) else None
        with ExitStack() as stack:
            stack.callback(setattr, gates, "lookahead", None)
            stack.enter_context(_frozen(gates.model))
            stack.enter_context(gates)
            yield

    def step(self, batches: Iterator[Batch], loss: Loss) -> dict[str, float]:
        """Learn from the next batch, within :meth:`running`.

        Args:
            batches: Of (mixture (B, T), sources (B, S, T)); one is taken.
            loss: As of :func:`~sepprune_tp.search.learn_gates`.

        Returns:
            The record of the step, which is in the history of the state too.

        Raises:
            SearchError: If the loss or a gradient is not finite, in any process.
        """
        seen = self._together(self.processes.attempt(partial(self._probe, batches, loss)))
        record = self._use(seen)
        self.processes.follow_first([self.gates.scores, self.state.multipliers])
        self.state.history.append(record)
        self.state.step += 1
        return record

    def end(self) -> None:
        """Take the scores as they are: nothing learns them any more."""
        self.gates.scores = self.gates.scores.detach()
        self.gates.ties = self.state.taylor

    def settle(self, round_to: RoundTo) -> tuple[Tensor, dict[str, Spent]]:
        """The final masks, (N,), bool, and what they spend."""
        steps = steps_for(self.gates, round_to)
        if self._limits is None:
            return _last(self.gates, self.state), {}
        keep = settled(self.gates, self._limits, steps=steps)
        return keep, spent(self._limits, keep)

    # -- one step ---------------------------------------------------------------------------------

    def _probe(self, batches: Iterator[Batch], loss: Loss) -> _Seen:
        """Run the gated model on the next batch, forward and backward to the gates."""
        mixture, sources = next(batches)
        gates, state, autocast = self.gates, self.state, self._autocast
        scores, warm = gates.scores, state.step < self._warm_up
        if warm:
            values = torch.ones_like(scores).requires_grad_()
        else:
            values = gates.kind.sample(scores, gates.generator)
        if hasattr(loss, "begin"):  # a teacher sees the model with all gates open
            gates.use(torch.ones_like(values, requires_grad=False))
            with torch.autocast(mixture.device.type, dtype=autocast, enabled=autocast is not None):
                announce(loss, mixture, gates.model)
        gates.use(values)
        with (
            nullcontext() if state.ahead is None or not warm else state.ahead.observing(),
            torch.autocast(mixture.device.type, dtype=autocast, enabled=autocast is not None),
        ):
            estimates = gates.model(mixture)
        task = loss(estimates.float() if autocast is not None else estimates, sources)
        if not bool(torch.isfinite(task)):
            raise SearchError(blame(gates, mixture, state.step))
        (gradient,) = torch.autograd.grad(task, values)
        figures = torch.tensor([float(task.detach()), _si_sdr(estimates, sources)]).double()
        return _Seen(values, gradient, figures, len(mixture), warm)

    def _together(self, seen: _Seen) -> _Seen:
        """What the whole batch says, from what its parts say.

        The means have to be taken here: neither |dL / dgate|, nor the clipped gradient that the
        published rule hands on to the scores, is the mean of what the parts would give.
        """
        ahead = self.state.ahead
        moments = ahead.moments if ahead is not None and seen.warm else []
        found = self.processes.mean([seen.gradient, seen.figures, *moments], seen.mixtures)
        if moments and ahead is not None:
            ahead.moments = found[2:]  # the sums before this step are the same in all
        return replace(seen, gradient=found[0], figures=found[1])

    def _use(self, seen: _Seen) -> dict[str, float]:
        """Use what a batch said; returns the record of the step."""
        costs = {"macs": 1.0}
        if seen.warm:
            self._measure(seen.gradient)
        else:
            costs = self._update(seen)
            self.state.last = seen.values.detach().float().cpu()
            if not self._learns:
                model = self.gates.cost_model
                costs = {"macs": model.exact(self.state.last > 0).macs / model.dense.macs}
        loss, si_sdr = seen.figures.tolist()
        return {"loss": loss, "si_sdr": si_sdr, **costs}

    def _measure(self, gradient: Tensor) -> None:
        """A step of the warm-up: add |dL / dgate|; the last one sets the scores."""
        gates, state = self.gates, self.state
        check_gradient(gates, gradient, state.step)
        state.taylor += gradient.float().abs().cpu()
        if state.step + 1 == self._warm_up:
            _start_from(gates, state.taylor / self._warm_up)
            gates.lookahead = state.ahead

    def _update(self, seen: _Seen) -> dict[str, float]:
        """A step on the scores, and on the multipliers; returns the expected costs, if bounded."""
        gates, state = self.gates, self.state
        costs: dict[str, float] = {}
        state.optimizer.zero_grad()
        seen.values.backward(seen.gradient)
        if self._learns and self._limits is not None:
            tightness = _tightness(state.step, self._warm_up, self.steps)
            excess, costs = _excess(gates, self._limits, tightness)
            price = state.multipliers.to(excess.device) * excess
            (price + _STIFFNESS * excess.clamp(min=0).square()).sum().backward()
            rise = _RISE * excess.detach().cpu()
            state.multipliers = (state.multipliers + rise).clamp(min=0)
        assert gates.scores.grad is not None
        check_gradient(gates, gates.scores.grad, state.step)
        torch.nn.utils.clip_grad_norm_([gates.scores], self._clip)
        state.optimizer.step()
        return costs


@dataclass
class _Seen:
    """What a batch, or a process's part of it, says about the gates.

    Attributes:
        values: The gates that it was run with, shape (N,), differentiable in the scores.
        gradient: Of the loss in these gates, shape (N,).
        figures: Loss, and SI-SDR in dB, shape (2,), float64, on the CPU.
        mixtures: Size of the batch.
        warm: Whether all gates were open, to measure how much each matters.
    """

    values: Tensor
    gradient: Tensor
    figures: Tensor
    mixtures: int
    warm: bool


def _limits(gates: GateSet, budget: Budget | None) -> Limits | None:
    if budget is None:
        if isinstance(gates.kind, HardConcrete):
            raise BudgetError(
                "kind='budget' learns under a budget: give budget=Budget(macs=0.5), or use "
                "GateSet(..., kind='gumbel') for the published rule without one"
            )
        return None
    limits = budget.limits(gates)
    limits.check_reachable(smallest(gates.groups), len(gates.groups))
    return limits


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze weights and statistics (eval mode); leave everything as it was."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in flags:
            parameter.requires_grad_(False)
        with eval_mode(model), recurrent_gradients(model):
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@torch.no_grad()
def _si_sdr(estimates: Tensor, sources: Tensor) -> float:
    """Mean SI-SDR in dB for display; NaN where the loss compares something else than waveforms."""
    if estimates.shape != sources.shape or sources.shape[1] > MAX_SOURCES:
        return math.nan
    return float(pit_si_sdr(estimates.float(), sources.float())[0].mean())


def _warm_up(steps: int) -> int:
    """Steps that only measure how much each gate matters."""
    return min(32, max(1, steps // 20))


def _tightness(step: int, warm: int, steps: int) -> float:
    """How far the limit has come from the dense cost (0) to the budget (1)."""
    ramp = max(1.0, _TIGHTENING * (steps - warm))
    return min(1.0, (step - warm + 1) / ramp)


def _start_from(gates: GateSet, sensitivity: Tensor) -> None:
    """Set the scores by the first-order effect of closing each gate (Taylor, per gate).

    Source:
        Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, the gate
        form, equation 8; here |dL/dg| averaged over batches, on a log scale.
    """
    level = torch.log(sensitivity + 1e-12)
    level = (level - level.mean()) / (level.std() + 1e-12)
    with torch.no_grad():
        gates.scores += _SPREAD * level.clamp(-3, 3).to(gates.scores.device)


def _excess(gates: GateSet, limits: Limits, tightness: float) -> tuple[Tensor, dict[str, float]]:
    """By how much the expected cost exceeds the present limit, as shares of the dense cost.

    Returns:
        Excess for each limit, shape (R,), differentiable; and the expected MACs, and for each limit
        the expected cost and the limit itself, as shares of the dense model.
    """
    model = gates.cost_model
    probability = gates.kind.open_probability(gates.scores)
    present = (1 + tightness * (limits.shares() - 1)).to(probability.device)
    expected = limits.expected(probability)
    with torch.no_grad():
        costs = {"macs": float(model.expected(probability).macs) / model.dense.macs}
    figures = zip(limits.entries, expected.tolist(), present.tolist(), strict=True)
    for limit, cost, most in figures:
        costs |= {f"{limit.name}_expected": cost, f"{limit.name}_limit": most}
    return expected - present, costs


def _last(gates: GateSet, state: SearchState) -> Tensor:
    """The last sample, (N,), bool."""
    keep = state.last > 0
    for group in gates.groups:  # a layer cannot run without channels: its best one stays
        if not bool(keep[group.gates].any()):
            keep[group.start + int(gates.scores[group.gates].argmax())] = True
    return keep
