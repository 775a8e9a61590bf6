"""``learn_gates``: find out which channels a trained separator can do without."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..distillation import dismissed
from ..gates import Cost, GateSet, remember
from ..losses import pit_neg_si_sdr
from .batches import checked_batches
from .budget import Budget
from .keeping import Keeper
from .masks import Spent
from .progress import progress_line
from .rounding import RoundTo
from .steps import Loss, Search

__all__ = ["SearchResult", "learn_gates"]


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
    began = time.perf_counter()
    search = Search(
        gates,
        budget,
        steps=steps,
        lr=lr,
        seed=seed,
        clip=clip,
        lookahead=lookahead,
        autocast=autocast,
    )
    state, processes = search.state, search.processes
    path = None if checkpoint is None else Path(checkpoint)
    with Keeper(path, checkpoint_every, gates, state, processes) as keeper:
        keeper.begin(search.settings, batches, loss)
        with (
            progress_line("learning gates", steps, progress and processes.first) as show,
            search.running(),
            dismissed(loss),
        ):
            stream = checked_batches(batches, steps, state.step, gates.scores.device)
            while not search.done:
                record = search.step(stream, loss)
                show(state.step, _text(record))
                keeper.step_done(steps)
        search.end()
        keep, met = keeper.settle(round_to, lambda: search.settle(round_to))
    gates.set_keep(keep)
    remember(gates)
    seconds = time.perf_counter() - began
    return SearchResult(gates.cost(), gates.cost_model.dense, seconds, state.history, met)


def _text(record: dict[str, float]) -> str:
    return f"loss {record['loss']:.2f}  SI-SDR {record['si_sdr']:.2f} dB  MACs {record['macs']:.1%}"
