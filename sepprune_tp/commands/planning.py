"""``--dry-run``: what a job would do, and what is known about its outcome before it is done.

Model, data, settings and budget are opened and checked as the job does it, and one batch is run
forward and backward to see that they fit each other and how long that takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of, recurrent_gradients, training_mode
from sepprune_tp.data.stored import ENDLESS
from sepprune_tp.distillation import announce
from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.job import SearchSettings
from sepprune_tp.launching import processes_for
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.profile import profile
from sepprune_tp.search import Budget
from sepprune_tp.search.limits import Limit
from sepprune_tp.search.ranking import smallest
from sepprune_tp.search.rounding import steps_for
from sepprune_tp.search.sharing import ItemBatches, Part

__all__ = ["Work", "plan_recovery", "plan_search"]


@dataclass(frozen=True)
class Work:
    """What a job would train on, and what it would write.

    Attributes:
        train: The training mixtures.
        val: The validation mixtures; None if there are none.
        batch_size: Mixtures a step.
        steps: Of the job.
        seed: Of the order of the mixtures.
        devices: That share every batch.
        accelerator: Their kind.
        writes: The files.
        state: Where the job would keep its state.
    """

    train: Any
    val: Any
    batch_size: int
    steps: int
    seed: int
    devices: int
    accelerator: str
    writes: tuple[Path, ...]
    state: Path | None = None

    def batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The first batch: mixtures (B, T) and sources (B, S, T).

        Raises:
            InputError: If the devices cannot share it evenly.
        """
        stream = ItemBatches(self.train, self.batch_size, shuffle_seed=self.seed)
        stream.shared(Part(0, processes_for(self.devices, self.accelerator)))
        mixture, sources = next(iter(stream))
        return mixture.to(device), sources.to(device)

    def facts(self, seconds: float) -> dict[str, Any]:
        """The figures of the work, with the time that one step took in seconds."""
        files = getattr(self.train, "files", None)  # of stored mixtures
        size = len(self.train) if files is None else len(files)
        count = None if size >= ENDLESS else size
        seen = self.steps * self.batch_size
        return {
            "training_mixtures": count,
            "validation_mixtures": None if self.val is None else len(self.val),
            "steps": self.steps,
            "batch_size": self.batch_size,
            "epochs": None if count is None else seen / count,
            "seconds_per_step": seconds,
            "seconds": seconds * self.steps,
            "state": self.state,
            "resumes": self.state is not None and self.state.exists(),
            "writes": list(self.writes),
        }


def plan_search(
    network: nn.Module,
    example: Tensor,
    settings: SearchSettings,
    budgets: Sequence[str],
    work: Work,
) -> dict[str, Any]:
    """What ``prune`` would do.

    Args:
        network: The dense model.
        example: A mixture (1, T) that MACs are counted on.
        settings: Of the search.
        budgets: Of a family; else the settings have the budget.
        work: Data and files.

    Returns:
        Plain data; ``bounds`` holds, by resource, the dense cost, the least reachable one and the
        most that the pruned model may cost.

    Raises:
        BudgetError: If a budget cannot be met.
        InputError: If model, data and settings do not go together.
    """
    cost = profile(network, example)
    gates = GateSet(network, example, scope=settings.scope, kind=settings.kind)
    least = smallest(gates.groups, steps_for(gates, settings.round_to))
    wanted: list[Budget | None] = [Budget(macs=budget) for budget in budgets]
    bounds = []
    for budget in wanted or [settings.budget]:
        if budget is not None:
            limits = budget.limits(gates)
            limits.check_reachable(least, len(gates.groups))
            bounds += [_bound(limit, least) for limit in limits.entries]
    named = {bound["resource"] for bound in bounds}
    bounds += [_free(gates, name, least) for name in ("macs", "params") if name not in named]
    mixture, sources = work.batch(device_of(network))
    values = torch.ones_like(gates.scores).requires_grad_()
    began = time.perf_counter()
    with gates, recurrent_gradients(network):
        gates.use(values)
        loss = pit_neg_si_sdr(_fitting(network(mixture), sources), sources)
        torch.autograd.grad(loss, values)
    seconds = time.perf_counter() - began
    return {
        "dry_run": True,
        "model": type(network).__name__,
        "params": cost.params,
        "macs": cost.macs,
        "scope": settings.scope,
        "groups": len(gates.groups),
        "gateable_channels": len(gates),
        "protected_layers": len(gates.graph.report().protected),
        "bounds": bounds,
        **work.facts(seconds),
    }


def plan_recovery(
    network: nn.Module, example: Tensor, loss: Any, val_every: int, work: Work
) -> dict[str, Any]:
    """What ``finetune`` would do; like :func:`plan_search`."""
    cost = profile(network, example)
    mixture, sources = work.batch(device_of(network))
    trained = [p for p in network.parameters() if p.requires_grad]
    if not trained:
        raise InputError(f"{type(network).__name__} has no parameter to train.")
    began = time.perf_counter()
    with training_mode(network):
        announce(loss, mixture, network)
        estimates = _fitting(network(mixture), sources)
        torch.autograd.grad(loss(estimates, sources), trained, allow_unused=True)
    seconds = time.perf_counter() - began
    return {
        "dry_run": True,
        "model": type(network).__name__,
        "params": cost.params,
        "macs": cost.macs,
        "validations": -(-work.steps // val_every) + 1,
        **work.facts(seconds),
    }


def _bound(limit: Limit, least: Tensor) -> dict[str, Any]:
    resource = limit.resource
    return {
        "resource": limit.name,
        "asked": limit.asked.text,
        "unit": resource.unit,
        "dense": resource.dense,
        "least": resource.measured(least),
        "most": min(limit.bound, resource.dense),
    }


def _free(gates: GateSet, name: str, least: Tensor) -> dict[str, Any]:
    """A cost that nothing bounds."""
    resource = gates.resource(name)
    return {
        "resource": name,
        "asked": None,
        "unit": resource.unit,
        "dense": resource.dense,
        "least": resource.exact(least),
        "most": resource.dense,
    }


def _fitting(estimates: Any, sources: Tensor) -> Tensor:
    shape = tuple(estimates.shape) if isinstance(estimates, Tensor) else type(estimates).__name__
    if shape != tuple(sources.shape):
        raise InputError(
            f"The model answers a batch with {shape}, its sources are {tuple(sources.shape)}, (B, "
            "S, T). It has to separate as many speakers as the data has."
        )
    assert isinstance(estimates, Tensor)
    return estimates
