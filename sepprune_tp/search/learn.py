"""``learn_gates``: find out which channels a trained separator can do without."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._modes import eval_mode
from ..distillation import announce
from ..errors import BudgetError, InputError, SearchError
from ..gates import Cost, GateSet, HardConcrete, remember
from ..losses import MAX_SOURCES, pit_neg_si_sdr, pit_si_sdr
from .batches import checked_batches
from .budget import Budget
from .diagnosis import blame, check_gradient
from .keeping import Keeper
from .limits import Limits
from .masks import Spent, settled, spent
from .processes import Processes
from .progress import progress_line
from .ranking import smallest
from .rounding import RoundTo, steps_for
from .state import SearchState

__all__ = ["SearchResult", "learn_gates"]

Loss = Callable[[Tensor, Tensor], Tensor]
# Of the constraint, in dB of SI-SDR for the whole cost of the dense model; the task loss is in dB.
_STIFFNESS = 50.0
_RISE = 2.0  # of a multiplier in one step, per unit of excess
_TIGHTENING = 0.5  # share of the steps in which the limit goes from the dense cost to the budget
_SPREAD = 1.0  # of the scores at the start, in standard deviations of log sensitivity


@dataclass
class SearchResult:
    """What a search did.

    Attributes:
        cost: Cost of the model that the masks leave.
        dense: Cost of the dense model.
        seconds: Wall-clock time.
        history: One dict a step: loss, si_sdr in dB, macs (expected share of the dense model) and,
            after the warm-up and where there is a budget, for each resource that it bounds, such
            as ``macs``, ``macs_expected`` and ``macs_limit`` (shares of the dense cost): what the
            gates are expected to spend, and the limit, which tightens to the budget.
        spent: What the masks spend of each bound, by resource; what few or heavy channels leave
            free beyond the tolerance shows here.
    """

    cost: Cost
    dense: Cost
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)


def learn_gates(
    gates: GateSet,
    batches: Iterable[Any],
    loss: Loss = pit_neg_si_sdr,
    budget: Budget | None = None,
    steps: int = 500,
    lr: float = 0.1,
    seed: int = 0,
    clip: float = 5.0,
    autocast: torch.dtype | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    round_to: RoundTo = 1,
    lookahead: bool = False,
) -> SearchResult:
    """Learn gate scores with frozen weights, then set the hard masks.

    ``kind="gumbel"`` follows the paper: Adam on the scores, task loss alone, gradient norm clipped;
    the final masks are the last sample (with a budget: the scores ranked until it is met).
    ``kind="budget"`` starts from the first-order effect of closing each gate, adds the expected
    cost with multipliers that rise while the budget is exceeded, and ends with the best scores that
    meet the budget from below.

    In a process group of torch.distributed (Lightning's Fabric, torchrun), all processes make one
    search: each gives its part of every batch (:func:`~sepprune_tp.search.share_of`), all end with
    the masks that one process has with the whole batches. ``loss`` has to be a mean over mixtures.

    Args:
        gates: The gates; their masks are set at the end.
        batches: Any iterable of (mixture (B, T), sources (B, S, T)); started over when it ends.
        loss: (estimates (B, S, T), sources (B, S, T)) -> scalar; a :class:`Distillation` (without
            a teacher: from the model with all gates open) also compares with the dense model.
        budget: Upper bounds on the pruned model; needed for ``kind="budget"``.
        steps: Optimisation steps.
        lr: Learning rate of Adam.
        seed: Of scores and samples; the same seed gives the same masks.
        clip: Gradient norm of the scores.
        autocast: ``torch.bfloat16`` to run the model in mixed precision.
        progress: Whether to show a progress bar (with ``rich``); of several processes, one does.
        checkpoint: File to resume from if it exists and to write to; of several processes, the
            first reads and writes it. Ctrl-C and SIGTERM then wait for the end of the step, and
            the state is written before they take effect; a second one does not wait.
        checkpoint_every: Steps between writes; a process that is alone also writes when 30 s have
            passed, and always at the end.
        round_to: Widths of the final masks are multiples of this (or the full width); ``"auto"``
            takes for each group the step that this machine likes, from measured layers.
        lookahead: Whether to look for the channels that are best after reconstruction
            (``kind="budget"`` only): open channels stand in for closed ones while the scores are
            learned. The masks are set as ever; reconstruct what they leave
            (:func:`sepprune_tp.reconstruct`), or it is worse than without.

    Returns:
        Costs, time and history.

    Raises:
        BudgetError: If a budget is missing or out of reach.
        SearchError: If there are no batches, or a loss or gradient is not finite.
        DataError: If a batch is malformed or holds NaN.
        InputError: If a setting is wrong, or processes were given different ones. An error in one
            process ends all of them.
        CheckpointError: If ``checkpoint`` is of other settings, another model or other data.
        BusyError: If another process searches with the same ``checkpoint``.
        KeyboardInterrupt: If the user interrupts it.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: a search takes at least one step")
    if lookahead and not isinstance(gates.kind, HardConcrete):
        raise InputError(
            f"lookahead=True with kind={gates.kind.name!r}: only kind='budget' looks ahead. Leave "
            "it out, or make the gates with kind='budget'."
        )
    processes = Processes(gates.scores.device)
    limits = processes.in_turn(lambda: _limits(gates, budget))
    began = time.perf_counter()
    generator = gates.generator.manual_seed(seed)
    scores = gates.kind.initial(len(gates), generator).to(gates.scores.device)
    gates.scores = nn.Parameter(scores)
    state = SearchState(
        step=0,
        optimizer=torch.optim.Adam([gates.scores], lr=lr),
        multipliers=torch.zeros(0 if limits is None else len(limits), dtype=torch.float64),
        taylor=torch.zeros(len(gates)),
        last=torch.ones(len(gates)),
        history=[],
        ahead=gates.look_ahead() if lookahead else None,
    )
    settings = {
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
    processes.check_same(settings)
    path = None if checkpoint is None else Path(checkpoint)
    with Keeper(path, checkpoint_every, gates, state, processes) as keeper:
        keeper.begin(settings, batches, loss)
        gates.lookahead = state.ahead if state.step >= _warm_up(steps) else None
        with (
            ExitStack() as stack,
            progress_line("learning gates", steps, progress and processes.first) as show,
        ):
            stack.callback(setattr, gates, "lookahead", None)
            stack.enter_context(_frozen(gates.model))
            stack.enter_context(gates)
            stream = checked_batches(batches, steps, state.step, gates.scores.device)
            warm = _warm(gates, limits, steps)
            probe = partial(_probe, gates, state, stream, loss, warm, autocast)
            while state.step < steps:
                seen = _together(processes, state, processes.attempt(probe))
                record = _step(gates, state, seen, limits, steps, clip)
                processes.follow_first([gates.scores, state.multipliers])
                state.history.append(record)
                state.step += 1
                show(state.step, _text(record))
                keeper.step_done(steps)
        gates.scores = gates.scores.detach()
        gates.ties = state.taylor
        settle = partial(_settle, gates, state, limits, round_to)
        keep, met = keeper.settle(round_to, settle)
    gates.set_keep(keep)
    remember(gates)
    seconds = time.perf_counter() - began
    return SearchResult(gates.cost(), gates.cost_model.dense, seconds, state.history, met)


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
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        for parameter in flags:
            parameter.requires_grad_(False)
        # cuDNN refuses the backward pass of a recurrent layer in eval mode
        with eval_mode(model), torch.backends.cudnn.flags(enabled=not recurrent):
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


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


def _probe(
    gates: GateSet,
    state: SearchState,
    stream: Iterator[tuple[Tensor, Tensor]],
    loss: Loss,
    warm_up: int,
    autocast: torch.dtype | None,
) -> _Seen:
    """Run the gated model on the next batch, forward and backward to the gates."""
    mixture, sources = next(stream)
    scores, warm = gates.scores, state.step < warm_up
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


def _together(processes: Processes, state: SearchState, seen: _Seen) -> _Seen:
    """What the whole batch says, from what its parts say.

    The means have to be taken here: neither |dL / dgate|, nor the clipped gradient that the
    published rule hands on to the scores, is the mean of what the parts would give.
    """
    moments = state.ahead.moments if state.ahead is not None and seen.warm else []
    found = processes.mean([seen.gradient, seen.figures, *moments], seen.mixtures)
    if moments and state.ahead is not None:
        state.ahead.moments = found[2:]  # the sums before this step are the same in all
    return replace(seen, gradient=found[0], figures=found[1])


def _step(
    gates: GateSet,
    state: SearchState,
    seen: _Seen,
    limits: Limits | None,
    steps: int,
    clip: float,
) -> dict[str, float]:
    """Use what a batch said; returns the record of the step."""
    warm = _warm(gates, limits, steps)
    learning = limits is not None and isinstance(gates.kind, HardConcrete)
    costs = {"macs": 1.0}
    if seen.warm:
        _measure(gates, state, seen.gradient, warm)
    else:
        tightness = _tightness(state.step, warm, steps)
        costs = _update(gates, state, seen, limits if learning else None, tightness, clip)
        state.last = seen.values.detach().float().cpu()
        if not learning:
            macs = gates.cost_model.exact(state.last > 0).macs / gates.cost_model.dense.macs
            costs = {"macs": macs}
    loss, si_sdr = seen.figures.tolist()
    return {"loss": loss, "si_sdr": si_sdr, **costs}


def _measure(gates: GateSet, state: SearchState, gradient: Tensor, warm: int) -> None:
    """A step of the warm-up: add |dL / dgate|; the last one sets the scores."""
    check_gradient(gates, gradient, state.step)
    state.taylor += gradient.float().abs().cpu()
    if state.step + 1 == warm:
        _start_from(gates, state.taylor / warm)
        gates.lookahead = state.ahead


def _update(
    gates: GateSet,
    state: SearchState,
    seen: _Seen,
    limits: Limits | None,
    tightness: float,
    clip: float,
) -> dict[str, float]:
    """A step on the scores, and on the multipliers; returns the expected costs, if bounded."""
    costs: dict[str, float] = {}
    state.optimizer.zero_grad()
    seen.values.backward(seen.gradient)
    if limits is not None:
        excess, costs = _excess(gates, limits, tightness)
        price = state.multipliers.to(excess.device) * excess
        (price + _STIFFNESS * excess.clamp(min=0).square()).sum().backward()
        rise = _RISE * excess.detach().cpu()
        state.multipliers = (state.multipliers + rise).clamp(min=0)
    assert gates.scores.grad is not None
    check_gradient(gates, gates.scores.grad, state.step)
    torch.nn.utils.clip_grad_norm_([gates.scores], clip)
    state.optimizer.step()
    return costs


@torch.no_grad()
def _si_sdr(estimates: Tensor, sources: Tensor) -> float:
    """Mean SI-SDR in dB for display; NaN where the loss compares something else than waveforms."""
    if estimates.shape != sources.shape or sources.shape[1] > MAX_SOURCES:
        return math.nan
    return float(pit_si_sdr(estimates.float(), sources.float())[0].mean())


def _warm(gates: GateSet, limits: Limits | None, steps: int) -> int:
    """Steps of the warm-up of this search; the published rule has none."""
    learning = limits is not None and isinstance(gates.kind, HardConcrete)
    return _warm_up(steps) if learning else 0


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


def _settle(
    gates: GateSet, state: SearchState, limits: Limits | None, round_to: RoundTo
) -> tuple[Tensor, dict[str, Spent]]:
    """The final masks, (N,), bool, and what they spend."""
    steps = steps_for(gates, round_to)
    if limits is None:
        return _last(gates, state), {}
    keep = settled(gates, limits, steps=steps)
    return keep, spent(limits, keep)


def _last(gates: GateSet, state: SearchState) -> Tensor:
    """The last sample, (N,), bool."""
    keep = state.last > 0
    for group in gates.groups:  # a layer cannot run without channels: its best one stays
        if not bool(keep[group.gates].any()):
            keep[group.start + int(gates.scores[group.gates].argmax())] = True
    return keep


def _text(record: dict[str, float]) -> str:
    return f"loss {record['loss']:.2f}  SI-SDR {record['si_sdr']:.2f} dB  MACs {record['macs']:.1%}"
