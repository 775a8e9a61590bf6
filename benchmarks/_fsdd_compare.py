"""Prune a dense model of the FSDD benchmark by many criteria to the same share of its MACs."""

from __future__ import annotations

import copy
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _fsdd_dense as dense
import torch
from _fsdd_baselines import (
    BASELINES,
    Baselines,
    Gradients,
    Scores,
    UnreachableError,
    best_ratio,
    gradients_of,
)
from _fsdd_gates import METHODS, Search, prune_by_gates
from _records import Records, by_pair, data_hash, environment, scores
from torch import Tensor, nn

from sepprune_tp import Distillation, load_pruned, profile, reconstruct, save_pruned
from sepprune_tp.data import MixtureDataset, batches
from sepprune_tp.evaluate import evaluate
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery import finetune, fingerprint

__all__ = [
    "CRITERIA",
    "REPAIRS",
    "Comparison",
    "Settings",
    "UnreachableError",
    "WaitingError",
    "contenders",
    "opened",
]

CRITERIA = [*METHODS, *BASELINES]
FIRST_SEED = 0  # every baseline is recovered on this one
RECOVERY = {"batch_size": 8, "schedule": "cosine", "precision": "bf16-mixed"}
FIT_BATCHES, FIT_SIZE = 8, 4  # mixtures of 2 s that least squares sees
REPAIRS = ("none", "least squares")
"""``least squares``: the pruned model is reconstructed, and training compares it with the dense
model too."""

Record = dict[str, Any]


class WaitingError(RuntimeError):
    """Something that another run has to do first."""


@dataclass(frozen=True)
class Settings:
    """What a run of the comparison may choose.

    Attributes:
        search_steps: Of a search for gates.
        search_batch: Mixtures in a step of it.
        search_seconds: Length of those mixtures.
        gradient_mixtures: Training mixtures of 2 s that Taylor and Hessian see.
        recovery_steps: Of every model that is recovered, at batch 8 x 2 s.
        recover_margin: In dB: baselines this close to the best after recovery on the first seed
            are recovered on the others.
        recover_least: As many at least.
        screen: In dB: baselines further than this from the best before recovery are not recovered.
    """

    search_steps: int = 500
    search_batch: int = 1
    search_seconds: float = 2.0
    gradient_mixtures: int = 128
    recovery_steps: int = 120
    recover_margin: float = 0.3
    recover_least: int = 3
    screen: float = float("inf")

    def of(self, criterion: str) -> Record:
        """Those that matter to the choice of channels."""
        if criterion in METHODS:
            names = ("search_steps", "search_batch", "search_seconds")
        elif _needs_gradients(criterion):
            names = ("gradient_mixtures",)
        else:
            names = ()
        return {name: value for name, value in asdict(self).items() if name in names}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What all criteria share, so that only the choice of channels differs.

    Attributes:
        name: Class of the dense model.
        model: The dense model.
        data: Folder of the recordings.
        test: Mixtures that everything is scored on.
        records: Where results go.
        models: Folder of the pruned and recovered models.
        settings: What was chosen.
        common: Fields of every record (hashes of data and weights...).
    """

    name: str
    model: nn.Module
    data: Path
    test: MixtureDataset
    records: Records
    models: Path
    settings: Settings
    common: Record

    # -- steps ------------------------------------------------------------------------------------

    def score_dense(self) -> None:
        """Score the dense model, by pair of speakers too, unless that is there."""
        if not self._find(stage="dense"):
            key = {"criterion": "none", "budget": 1.0, "seed": 0}
            self.records.replace(self._record(key, "dense", self.model, 0.0, {}))

    def prune(self, criterion: str, budget: float, seed: int, again: bool = False) -> Record:
        """Prune, score, keep the model and write the record; nothing if there is a record.

        Args:
            criterion: One of ``CRITERIA``.
            budget: Share of the MACs to keep.
            seed: Of mixtures and scores.
            again: Choose channels anew even so.

        Raises:
            UnreachableError: If the criterion cannot meet the budget.
        """
        key = {"criterion": criterion, "budget": budget, "seed": seed}
        settings = self.settings.of(criterion)
        found = self._find(**key, stage="pruned", repair="none", settings=settings)
        if found and not again:
            return found[0]
        seconds = self._gradients(seed).seconds if _needs_gradients(criterion) else 0.0
        began = time.monotonic()
        model = copy.deepcopy(self.model)
        kept = KeptChannels(model)
        choose = self._by_gates if criterion in METHODS else self._by_importance
        details = choose(model, criterion, budget, seed)
        seconds += time.monotonic() - began
        details |= {"settings": settings, "pruned_sha256": fingerprint(model), "repair": "none"}
        self._save(model, key, "pruned")
        torch.save(kept, self._path(key, "kept").with_suffix(".pt"))
        record = self._record(key, "pruned", model, seconds, details)
        self.records.replace(record)
        return record

    def pruned(self, criterion: str, budget: float, seed: int) -> tuple[nn.Module, KeptChannels]:
        """A pruned model and the channels that it kept; chosen anew if the files are lost."""
        key = {"criterion": criterion, "budget": budget, "seed": seed}
        path = self._path(key, "kept").with_suffix(".pt")
        there = path.exists() and self._path(key, "pruned").exists()
        record = self.prune(criterion, budget, seed, again=not there)
        model = load_pruned(self._path(key, "pruned"))
        if fingerprint(model) != record["pruned_sha256"]:
            raise RuntimeError(
                f"{self._path(key, 'pruned')} is not the model of its record: prune with --again"
            )
        kept: KeptChannels = torch.load(path, weights_only=False)  # written by prune
        return model, kept

    def reconstruct(self, criterion: str, budget: float, seed: int) -> Record:
        """Reconstruct a pruned model by least squares, score and keep it, unless that is there."""
        key = {"criterion": criterion, "budget": budget, "seed": seed}
        same = {
            "pruned_sha256": self.prune(criterion, budget, seed)["pruned_sha256"],
            "repair": "least squares",
        }
        found = self._find(**key, stage="pruned", **same)
        if found and self._path(key, "reconstructed").exists():
            return found[0]
        model, kept = self.pruned(criterion, budget, seed)
        train = dense.train_set(self.data, seed=300 + seed)
        fit = list(batches(train, FIT_SIZE, steps=FIT_BATCHES))
        began = time.monotonic()
        with dense.fast_global_norm():
            reconstruct(model, self.model, fit, kept)
        seconds = time.monotonic() - began
        self._save(model, key, "reconstructed")
        record = self._record(key, "pruned", model, seconds, same)
        self.records.replace(record)
        return record

    def recover(self, criterion: str, budget: float, seed: int, repair: str = "none") -> Record:
        """Recover a pruned model, score it, keep it and write the record, unless that is there.

        Args:
            criterion: One of ``CRITERIA``.
            budget: Share of the MACs to keep.
            seed: Of mixtures, scores and batches.
            repair: One of ``REPAIRS``.
        """
        key = {"criterion": criterion, "budget": budget, "seed": seed}
        pruned = self.prune(criterion, budget, seed)
        same = {
            "pruned_sha256": pruned["pruned_sha256"],
            "recovery_steps": self.settings.recovery_steps,
            "repair": repair,
        }
        found = self._find(**key, stage="recovered", **same)
        if found:
            return found[0]
        if repair == "none":
            model, _ = self.pruned(criterion, budget, seed)
            loss: Any = pit_neg_si_sdr
        else:
            self.reconstruct(criterion, budget, seed)
            model = load_pruned(self._path(key, "reconstructed"))
            loss = Distillation(copy.deepcopy(self.model))
        began = time.monotonic()
        with dense.fast_global_norm():
            result = finetune(
                model,
                dense.train_set(self.data, seed=100 + seed),
                dense.validation_set(self.data, size=32),
                loss=loss,
                steps=self.settings.recovery_steps,
                val_every=max(1, self.settings.recovery_steps // 3),
                seed=seed,
                progress=False,
                **RECOVERY,
            )
        seconds = time.monotonic() - began
        self._save(model, key, "recovered" if repair == "none" else "repaired")
        details = {**same, "validation_si_sdr": round(result.si_sdr, 3)}
        record = self._record(key, "recovered", model, seconds, details)
        self.records.replace(record)
        return record

    def to_recover(self, criteria: Sequence[str], budget: float, seed: int) -> list[str]:
        """Which baselines to recover; what learns gates is always recovered.

        On the first seed every baseline that the screen lets pass; on the others those that came
        close to the best there.

        Raises:
            WaitingError: If that is not known yet.
        """
        self.records.read()
        pruned = self._scored(budget, "pruned", criteria)
        chosen = contenders(pruned, self.settings.screen, self.settings.recover_least)
        if seed != FIRST_SEED:
            recovered = self._scored(budget, "recovered", criteria)
            missing = [c for c in chosen if c not in recovered]
            if missing or not chosen:
                raise WaitingError(
                    f"{len(missing) or 'all'} baselines are to be recovered on seed {FIRST_SEED} "
                    "first; which to recover on other seeds follows from them"
                )
            settings = self.settings
            chosen = contenders(recovered, settings.recover_margin, settings.recover_least)
        return [c for c in criteria if c in chosen]

    def _scored(self, budget: float, stage: str, criteria: Sequence[str]) -> dict[str, float]:
        """SI-SDRi of the baselines on the first seed, by criterion, under the present settings."""
        found = {}
        for record in self._find(budget=budget, seed=FIRST_SEED, stage=stage):
            name = record["criterion"]
            if name not in criteria or name in METHODS or record.get("repair") != "none":
                continue
            if stage == "pruned" and record["settings"] != self.settings.of(name):
                continue
            if stage == "recovered" and record["recovery_steps"] != self.settings.recovery_steps:
                continue
            found[name] = float(record["si_sdri"])
        return found

    # -- choosing channels ------------------------------------------------------------------------

    def _by_gates(self, model: nn.Module, criterion: str, budget: float, seed: int) -> Record:
        train = dense.train_set(self.data, seed=200 + seed, seconds=self.settings.search_seconds)
        drawn = batches(train, self.settings.search_batch, steps=self.settings.search_steps)
        search = Search(model, self.example, list(drawn), budget, seed)
        with dense.fast_global_norm():
            return prune_by_gates(criterion, search)

    def _by_importance(self, model: nn.Module, criterion: str, budget: float, seed: int) -> Record:
        importance, _, mode = criterion.partition("/")
        if not _varies(criterion):
            seed = FIRST_SEED
        scored = self._scores(importance, seed)
        ratio = best_ratio(self._shares(importance, mode, seed), budget)
        self._baselines.prune(model, mode, scored, ratio)
        return {"pruning_ratio": round(ratio, 6)}

    @functools.cached_property
    def _baselines(self) -> Baselines:
        return Baselines(self.model, self.example)

    @functools.cache  # noqa: B019 (one comparison a process)
    def _gradients(self, seed: int) -> Gradients:
        train = dense.train_set(self.data, seed=100 + seed)
        with dense.fast_global_norm():
            return gradients_of(
                self.model, batches(train, 1, steps=self.settings.gradient_mixtures)
            )

    @functools.cache  # noqa: B019
    def _scores(self, importance: str, seed: int) -> Scores:
        gradients = self._gradients(seed) if _needs_gradients(importance) else None
        return self._baselines.scores(importance, seed, gradients)

    @functools.cache  # noqa: B019
    def _shares(self, importance: str, mode: str, seed: int) -> Any:
        return self._baselines.shares(mode, self._scores(importance, seed))

    # -- records ----------------------------------------------------------------------------------

    @functools.cached_property
    def example(self) -> Tensor:
        """One second, on which MACs are counted; the same for every model."""
        return torch.zeros(1, self.test.sample_rate)

    @functools.cached_property
    def _dense_macs(self) -> int:
        return profile(self.model, self.example).macs

    def _find(self, **fields: Any) -> list[Record]:
        return self.records.find(**fields, **self.common)

    def _path(self, key: Record, stage: str) -> Path:
        criterion = str(key["criterion"]).replace("/", "-")
        name = f"{self.name}_{criterion}_{key['budget']}_{key['seed']}_{stage}.safetensors"
        return self.models / name

    def _save(self, model: nn.Module, key: Record, stage: str) -> None:
        path = self._path(key, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_pruned(model, path)

    def _record(
        self, key: Record, stage: str, model: nn.Module, seconds: float, details: Record
    ) -> Record:
        """Score a model, or take over the scores of one with the same weights."""
        names = ("pruned_sha256", "repair")
        same = {"stage": stage, **{name: details.get(name) for name in names}}
        twins = self._find(**same) if stage == "pruned" else []
        if twins:
            names = ("si_sdri", "sdri", "si_sdri_std_mixtures", "by_pair")
            scored = {name: twins[0][name] for name in names}
        else:
            with dense.fast_global_norm():
                rate = self.test.sample_rate
                evaluation = evaluate(model, self.test, sample_rate=rate, batch_size=10)
            scored = {
                **scores(evaluation),
                "si_sdri_std_mixtures": round(evaluation.std("si_sdri"), 3),
                "by_pair": by_pair(evaluation, self.test),
            }
        cost = profile(model, self.example)
        return {
            "experiment": "fsdd",
            "model": self.name,
            "data": "fsdd",
            **key,
            "stage": stage,
            **scored,
            "params": cost.params,
            "macs": cost.macs,
            "macs_share": round(cost.macs / self._dense_macs, 4),
            "seconds": round(seconds, 1),
            **details,
            **self.common,
            **environment(),
        }


def opened(
    name: str,
    data: Path,
    checkpoints: Path,
    results: Path,
    models: Path,
    settings: Settings,
    mixtures: int = 150,
) -> Comparison:
    """The comparison of one dense model.

    Args:
        name: Class of the dense model.
        data: Folder of the recordings.
        checkpoints: Folder of the dense models.
        results: Folder of the records.
        models: Folder of the pruned and recovered models.
        settings: What was chosen.
        mixtures: Number of test mixtures.
    """
    weights = checkpoints / f"fsdd_{name.lower()}.safetensors"
    trained, _ = dense.load(weights)
    common = {
        "test_mixtures": mixtures,
        "test_seconds": dense.TEST_SECONDS,
        "data_sha256": data_hash(data),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    records = Records(results / f"fsdd_{name.lower()}.json")
    test = dense.test_set(data, mixtures)
    return Comparison(name, trained, data, test, records, models, settings, common)


def contenders(scored: Mapping[str, float], margin: float, least: int) -> list[str]:
    """The best by score: those within a margin of the best, and at least so many.

    Args:
        scored: In dB, by criterion.
        margin: In dB.
        least: How many at least, as far as there are so many.
    """
    ranked = sorted(scored, key=lambda name: -scored[name])
    return [
        name
        for place, name in enumerate(ranked)
        if place < least or scored[name] >= scored[ranked[0]] - margin
    ]


def _needs_gradients(criterion: str) -> bool:
    return "Taylor" in criterion or "Hessian" in criterion


def _varies(criterion: str) -> bool:
    """Whether a baseline depends on the seed."""
    return _needs_gradients(criterion) or "Random" in criterion
