"""Prune the dense model of the FSDD benchmark by several criteria to the same share of its MACs."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _fsdd_dense as dense
import torch
import torch_pruning as tp
from _records import Records, by_pair, environment, scores
from torch import Tensor, nn

from sepprune_tp import (
    Budget,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    learn_gates,
    profile,
)
from sepprune_tp.evaluate import Evaluation, evaluate
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.mixtures import MixtureDataset, batches
from sepprune_tp.recovery import finetune

__all__ = ["Comparison"]

BISECTIONS = 12  # of the pruning ratio: finer than one channel of the model
TAYLOR_BATCHES = 16
SEARCH_BATCH, SEARCH_SECONDS = 4, 1.0


@dataclass(frozen=True)
class Comparison:
    """What all criteria share, so that only the choice of channels differs.

    Attributes:
        data: Folder of the recordings.
        model: The dense model.
        test: Mixtures that everything is scored on.
        records: Where results go.
        search_steps: Of our gates, at batch 4 x 1 s.
        recovery_steps: Of every pruned model, at batch 8 x 2 s.
        common: Fields of every record (hashes of data and weights...).
    """

    data: Path
    model: nn.Module
    test: MixtureDataset
    records: Records
    search_steps: int
    recovery_steps: int
    common: dict[str, Any]

    def run(self, criterion: str, budget: float, seed: int) -> None:
        """Prune, score, recover, score, and write both records; nothing if they are there."""
        key = {"criterion": criterion, "budget": budget, "seed": seed}
        if len(self.records.find(**key, **self.common)) >= 2:
            return
        began = time.monotonic()
        model = copy.deepcopy(self.model)
        train = dense.train_set(self.data, seed=100 + seed)
        if criterion == "sepprune":
            model, details = prune_by_gates(
                model, self.example(), self.search_batches(seed), budget, seed, self.search_steps
            )
        else:
            model, details = prune_by_ratio(model, self.example(), criterion, budget, train)
        pruned = self._record(key, "pruned", model, time.monotonic() - began, details)
        began = time.monotonic()
        with dense.fast_global_norm():
            result = finetune(
                model,
                train,
                dense.validation_set(self.data, size=32),
                steps=self.recovery_steps,
                val_every=max(1, self.recovery_steps // 3),
                schedule="cosine",
                precision="bf16-mixed",
                seed=seed,
                progress=False,
            )
        details = {"recovery_steps": result.steps}
        recovered = self._record(key, "recovered", model, time.monotonic() - began, details)
        self.records.replace(pruned, recovered)

    def score_dense(self) -> None:
        """Score the dense model, by pair of speakers too, unless that is there."""
        if not self.records.find(stage="dense", **self.common):
            key = {"criterion": "none", "budget": 1.0, "seed": 0}
            self.records.replace(self._record(key, "dense", self.model, 0.0, {}))

    def example(self) -> Tensor:
        """One second, on which MACs are counted; the same for every model."""
        return torch.zeros(1, self.test.sample_rate)

    def search_batches(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        """What the gates learn on: as many batches as steps, of training mixtures."""
        train = dense.train_set(self.data, seed=200 + seed, seconds=SEARCH_SECONDS)
        return list(batches(train, SEARCH_BATCH, steps=self.search_steps))

    def _record(
        self,
        key: dict[str, Any],
        stage: str,
        model: nn.Module,
        seconds: float,
        details: dict[str, Any],
    ) -> dict[str, Any]:
        """Score a model."""
        evaluation = self._evaluate(model)
        cost = profile(model, self.example())
        whole = profile(self.model, self.example())
        return {
            "experiment": "fsdd",
            "model": "ConvTasNet",
            "data": "fsdd",
            **key,
            "stage": stage,
            **scores(evaluation),
            "si_sdri_std_mixtures": round(evaluation.std("si_sdri"), 3),
            "params": cost.params,
            "macs": cost.macs,
            "macs_share": round(cost.macs / whole.macs, 4),
            "seconds": round(seconds, 1),
            "by_pair": by_pair(evaluation, self.test),
            **details,
            **self.common,
            **environment(),
        }

    def _evaluate(self, model: nn.Module) -> Evaluation:
        """Score on all test mixtures."""
        with dense.fast_global_norm():
            return evaluate(model, self.test, sample_rate=self.test.sample_rate, batch_size=10)


def prune_by_gates(
    model: nn.Module,
    example: Tensor,
    found: list[tuple[Tensor, Tensor]],
    budget: float,
    seed: int,
    steps: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """Ours: learn gates under the budget and remove what they close."""
    gates = GateSet(model, example, scope="separator", kind="budget")
    limit = Budget(macs=budget)
    learn_gates(
        gates, found, pit_neg_si_sdr, budget=limit, steps=steps, lr=0.1, seed=seed, progress=False
    )
    kept = {name: f"{int(mask.sum())}/{len(mask)}" for name, mask in gates.masks().items()}
    SepPrunePruner(model, example, importance=SepPruneImportance(gates)).step()
    return model, {"search_steps": steps, "kept": kept}


def prune_by_ratio(
    model: nn.Module, example: Tensor, criterion: str, budget: float, train: MixtureDataset
) -> tuple[nn.Module, dict[str, Any]]:
    """One of torch-pruning's: the smallest ratio that meets the budget, by bisection.

    Channels compete across layers, or only within their layer if the criterion ends in ``/local``.
    """
    name, _, scope = criterion.partition("/")
    gradients = taylor_gradients(model, train) if "Taylor" in criterion else None
    limit = budget * profile(model, example).macs
    low, high = 0.0, 1.0  # low keeps too much, high meets the budget
    best: nn.Module | None = None
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        candidate = copy.deepcopy(model)
        if gradients is not None:
            for key, parameter in candidate.named_parameters():
                parameter.grad = gradients[key].clone()
        importance = getattr(tp.importance, name)()
        everywhere = scope != "local"
        SepPrunePruner(
            candidate, example, importance, pruning_ratio=ratio, global_pruning=everywhere
        ).step()
        if profile(candidate, example).macs <= limit:
            high, best = ratio, candidate
        else:
            low = ratio
    if best is None:
        raise RuntimeError(f"{criterion} cannot reach {budget:.0%} of the MACs at any ratio.")
    best.zero_grad(set_to_none=True)
    return best, {"pruning_ratio": round(high, 5)}


def taylor_gradients(model: nn.Module, train: MixtureDataset) -> dict[str, Tensor]:
    """Gradients of the loss, summed over some batches of training mixtures."""
    model.eval().zero_grad(set_to_none=True)
    with dense.fast_global_norm():
        for mixture, sources in batches(train, 8, steps=TAYLOR_BATCHES):
            pit_neg_si_sdr(model(mixture), sources).backward()
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return gradients
