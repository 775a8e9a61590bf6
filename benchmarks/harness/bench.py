"""Run one cell of an experiment: choose channels, prune, bring back, score, record.

A record holds the masks that were chosen, so that a pruned model can be made again from the dense
one without another search. Only a criterion that trains weights as well keeps a file.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.criteria import Chosen, Search, UnreachableError, criterion
from sepprune_tp import (
    Distillation,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    load_pruned,
    profile,
    recalibrate,
    reconstruct,
    save_pruned,
)
from sepprune_tp.data import MapStyle, batches
from sepprune_tp.evaluate import evaluate
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune, fingerprint

from .cells import Cell, cells_of, conditions
from .config import Experiment
from .data import Corpus
from .dense import Dense, fast_global_norm
from .records import UNREACHABLE, Record, Records, environment, scores
from .zoo import build

__all__ = ["Bench", "decoded", "encoded"]

FIT_BATCHES, FIT_SIZE = 8, 4  # mixtures of 2 s that least squares sees
FIT_SAMPLES = 1 << 15  # of their positions, unless it takes all
FRESH = 1000  # seeds of untrained weights, unlike those of any dense model
FEATURES = ["masker"]
LAYERS = 4.0  # weight of the layers that lost inputs; that of the task and of the estimates is 1


@dataclass(eq=False)
class Bench:
    """What all cells of a dense model share.

    Attributes:
        experiment: Whose cells these are.
        dense: The dense model.
        corpus: Where mixtures come from.
        records: Where results go.
        work: Folder of models that are kept.
        devices: Lightning's number of devices for training.
    """

    experiment: Experiment
    dense: Dense
    corpus: Corpus
    records: Records
    work: Path
    devices: int = 1

    # -- cells ------------------------------------------------------------------------------------

    def cells(self) -> Iterator[Cell]:
        """All cells, as :func:`cells_of` orders them."""
        return cells_of(self.experiment)

    def found(self, cell: Cell) -> Record | None:
        """The record of a cell that was measured under the same conditions."""
        same = self.records.find(**self._key(cell))
        return next((r for r in same if r.get("identity") == self._identity(cell)), None)

    def run(self, cell: Cell) -> Record:
        """Measure a cell and write its record; nothing if it is there.

        Where the criterion cannot meet the budget, the record says why, in ``reason``, and its
        stage is ``unreachable``.
        """
        found = self.found(cell)
        if found:
            return found
        if cell.stage == "dense":
            return self._write(cell, self.dense.model, 0.0, {})
        try:
            chosen, choosing = self._chosen(cell)
        except UnreachableError as error:
            return self._add(cell, {"stage": UNREACHABLE, "reason": str(error)})
        began = time.monotonic()
        model, kept = self._cut(cell, chosen)
        details: Record = {"choosing_seconds": round(choosing, 1), "details": chosen.details}
        if chosen.masks:
            details["masks"] = encoded(chosen.masks)
        with fast_global_norm():
            if cell.recovery.first:
                self._refit(cell, model, kept)
            if cell.recovery.steps:
                details |= self._train(cell, model, kept)
        changed = bool(cell.recovery.first) or cell.recovery.steps > 0
        if changed:
            self._save(cell, model)
        return self._write(cell, model, time.monotonic() - began if changed else choosing, details)

    def model(self, cell: Cell) -> nn.Module:
        """The model of a cell that was run, read from its file or made again from its masks.

        Raises:
            FileNotFoundError: If it was trained and its file is lost: run the cell again.
            UnreachableError: If there is none.
        """
        record = self.run(cell)
        if record["stage"] == UNREACHABLE:
            raise UnreachableError(record["reason"])
        if cell.stage == "dense":
            return self.dense.model
        path = self._path(cell)
        if path.exists():
            return load_pruned(path)
        if cell.stage == "recovered" or cell.recovery.first:
            raise FileNotFoundError(
                f"{path} is lost: delete its record from {self.records.path} and run it again"
            )
        return self._cut(cell, Chosen(decoded(record["masks"])))[0]

    # -- steps ------------------------------------------------------------------------------------

    def _chosen(self, cell: Cell) -> tuple[Chosen, float]:
        """Masks of a cell and the seconds they took: from any record that has them, or anew."""
        weights = self._weights(cell)
        key = {**self._key(cell), "choice": self._choice_identity(cell)}
        key.pop("recovery")
        key.pop("experiment")
        needs_file = cell.choice.name == "joint"
        for records in (self.records, *self._others()):
            for record in records.find(**key):
                if "masks" in record and (weights.exists() or not needs_file):
                    masks = decoded(record["masks"])
                    return Chosen(masks, record["details"]), record["choosing_seconds"]
        model = copy.deepcopy(self.dense.model)
        before = fingerprint(model)
        began = time.monotonic()
        with fast_global_norm():
            chosen = criterion(cell.choice.name, cell.choice.options)(
                Search(
                    model,
                    self.dense.example,
                    functools.partial(self._batches, cell.seed),
                    cell.budget,
                    cell.seed,
                    cell.choice.scope,
                    devices=self.devices,
                )
            )
        seconds = time.monotonic() - began
        if fingerprint(model) != before:
            weights.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), weights)
        return chosen, seconds

    def _cut(self, cell: Cell, chosen: Chosen) -> tuple[nn.Module, KeptChannels]:
        """A pruned copy of the dense model (or of an untrained one), and what it kept."""
        model = copy.deepcopy(self.dense.model)
        if cell.recovery.fresh:
            model.load_state_dict(build(self.dense.name, FRESH + cell.seed).state_dict())
        if self._weights(cell).exists():
            model.load_state_dict(torch.load(self._weights(cell), weights_only=True))
        kept = KeptChannels(model)
        if chosen.masks:
            gates = GateSet(model, self.dense.example, scope=cell.choice.scope)
            gates.load_masks(chosen.masks)
            importance = SepPruneImportance(gates)
            SepPrunePruner(model, self.dense.example, importance=importance).step()
        return model, kept

    def _refit(self, cell: Cell, model: nn.Module, kept: KeptChannels) -> None:
        """Fit a pruned model to the dense one in place, without training."""
        fit, teacher, first = self._fit(cell.seed), self.dense.model, cell.recovery.first
        if first == "norms":
            recalibrate(model, fit, teacher, kept)
            return
        parts = ("mixing", "depthwise", "norm") if first == "all" else ("mixing",)
        inputs = "dense" if first == "dense inputs" else "pruned"
        samples = 1 << 20 if first == "least squares, all positions" else FIT_SAMPLES
        reconstruct(model, teacher, fit, kept, parts=parts, inputs=inputs, samples=samples)

    def _loss(self, name: str, kept: KeptChannels) -> Any:
        if name == "task":
            return pit_neg_si_sdr
        teacher = copy.deepcopy(self.dense.model)
        if name == "waveform":
            return Distillation(teacher, task_weight=0.0)
        if name == "layers":
            return Distillation(teacher, layers=LAYERS, kept=kept)
        return Distillation(teacher, features=FEATURES if name == "features" else [], kept=kept)

    def _train(self, cell: Cell, model: nn.Module, kept: KeptChannels) -> Record:
        """Train a model in place; what to record of it."""
        recovery, training = cell.recovery, self.work / "training" / self._identity(cell)
        result = finetune(
            model,
            self.corpus.train(100 + cell.seed, recovery.seconds),
            self.corpus.validation(32),
            loss=self._loss(recovery.loss, kept),
            batch_size=recovery.batch_size,
            steps=recovery.steps,
            lr=recovery.lr,
            schedule=recovery.schedule,
            precision=recovery.precision,
            val_every=recovery.val_every or max(1, recovery.steps // 3),
            early_stop=recovery.early_stop,
            seed=cell.seed,
            progress=False,
            devices=self.devices,
            checkpoint_dir=training,
        )
        shutil.rmtree(training, ignore_errors=True)
        history = [
            {"step": int(row["step"]), "si_sdr": round(row["si_sdr"], 3)} for row in result.history
        ]
        return {"validation_si_sdr": round(result.si_sdr, 3), "history": history}

    def _batches(self, seed: int, steps: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(self.corpus.train(200 + seed), size, steps=steps)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (one bench a model)
    def _fit(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        return list(batches(self.corpus.train(300 + seed), FIT_SIZE, steps=FIT_BATCHES))

    @functools.cached_property
    def test(self) -> MapStyle:
        """The mixtures that everything is scored on."""
        asked = self.experiment.test
        if asked.get("split") == "validation":
            return self.corpus.validation(asked["mixtures"], asked["seconds"])
        return self.corpus.test(asked["mixtures"], asked["seconds"])

    @functools.cached_property
    def _dense_macs(self) -> int:
        return profile(self.dense.model, self.dense.example).macs

    # -- records and files ------------------------------------------------------------------------

    def _key(self, cell: Cell) -> Record:
        return {
            "experiment": self.experiment.name,
            "model": self.dense.name,
            "data": self.corpus.name,
            **cell.key,
        }

    def _choice_identity(self, cell: Cell) -> str:
        """Of everything that a choice of channels follows from."""
        return _digest(
            {
                "weights": self.dense.sha256,
                "data": self.corpus.sha256,
                "name": cell.choice.name,
                "options": dict(cell.choice.options),
                "scope": cell.choice.scope,
                "budget": cell.budget,
                "seed": cell.seed,
            }
        )

    def _identity(self, cell: Cell) -> str:
        """Of everything that a figure follows from."""
        config = conditions(self.experiment, cell)
        return _digest({"choice": self._choice_identity(cell), **config, "criterion": None})

    def _weights(self, cell: Cell) -> Path:
        """Where the weights of a criterion that trains them are."""
        return self.work / f"{self._choice_identity(cell)}.pt"

    def _path(self, cell: Cell) -> Path:
        """Where the model of a cell is."""
        return self.work / f"{self._identity(cell)}.safetensors"

    def _save(self, cell: Cell, model: nn.Module) -> None:
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_pruned(model, path)

    def _others(self) -> Iterator[Records]:
        """Records of other experiments, which may hold a choice that this one needs."""
        for path in sorted(self.records.path.parent.glob("*.json")):
            if path != self.records.path:
                yield Records(path)

    def _write(
        self, cell: Cell, model: nn.Module, seconds: float, details: Mapping[str, Any]
    ) -> Record:
        """Score a model and write its record."""
        cost = profile(model, self.dense.example)
        return self._add(
            cell,
            {
                "stage": cell.stage,
                **self._scores(cell, model, details),
                "params": cost.params,
                "macs": cost.macs,
                "macs_share": round(cost.macs / self._dense_macs, 4),
                "seconds": round(seconds, 1),
                "steps": cell.recovery.steps,
                **details,
            },
        )

    def _add(self, cell: Cell, measured: Mapping[str, Any]) -> Record:
        """Write a record, with all that its figures follow from."""
        record = {
            **self._key(cell),
            **measured,
            "config": conditions(self.experiment, cell),
            "identity": self._identity(cell),
            "choice": self._choice_identity(cell),
            "data_sha256": self.corpus.sha256,
            "weights_sha256": self.dense.sha256,
            **environment(),
        }
        self.records.replace(record)
        return record

    def _scores(self, cell: Cell, model: nn.Module, details: Mapping[str, Any]) -> Record:
        """Of a model, or of the same one as another seed chose it."""
        if cell.stage == "pruned" and not cell.recovery.first and cell.choice.name != "joint":
            same = {"stage": "pruned", "masks": details["masks"], "recovery": cell.recovery.name}
            same |= {"weights_sha256": self.dense.sha256, "data_sha256": self.corpus.sha256}
            for twin in self.records.find(**same):
                return {name: twin[name] for name in ("si_sdri", "sdri", "per_mixture")}
        with fast_global_norm():
            rate = self.corpus.sample_rate
            return scores(evaluate(model, self.test, sample_rate=rate, batch_size=10))


def encoded(masks: Mapping[str, Tensor]) -> dict[str, str]:
    """Masks as JSON takes them: size and bits, most significant first, in hexadecimal."""
    found = {}
    for name, mask in masks.items():
        bits = "".join("1" if keep else "0" for keep in mask.tolist())
        found[name] = f"{len(bits)}:{int(bits, 2):x}"
    return found


def decoded(masks: Mapping[str, str]) -> dict[str, Tensor]:
    """The masks that :func:`encoded` wrote."""
    found = {}
    for name, text in masks.items():
        size, _, digits = text.partition(":")
        bits = f"{int(digits, 16):0{int(size)}b}"
        found[name] = torch.tensor([bit == "1" for bit in bits])
    return found


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
