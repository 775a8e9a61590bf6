"""Evaluate a separator: SI-SDR, SDR and their improvements over the unprocessed mixture.

Letters: B batch, S sources, T time. All ratios are in dB.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of, eval_mode
from sepprune_tp.errors import DataError, InputError, require
from sepprune_tp.losses import pit_si_sdr, si_sdr
from sepprune_tp.measure.latency import Comparison, Latency, compare_latency, measure_latency
from sepprune_tp.separation import separate_file

__all__ = [
    "Comparison",
    "Evaluation",
    "Latency",
    "compare_latency",
    "evaluate",
    "measure_latency",
    "separate_file",
]

METRICS = ("si_sdr", "si_sdri", "sdr", "sdri")
SILENCE = 1e-8  # mean square below which a source counts as silent: -80 dBFS


class _Items(Protocol):
    """A sized map from index to (mixture, sources): a list, or a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Evaluation:
    """How well a model separates a set of mixtures.

    Attributes:
        per_mixture: By metric (``si_sdr``, ``si_sdri``, ``sdr``, ``sdri``), the mean over the
            sources of each mixture, in dB, in the order of the data set.
        params: Number of parameters of the model.
    """

    per_mixture: Mapping[str, tuple[float, ...]]
    params: int

    @property
    def mixtures(self) -> int:
        """Number of mixtures."""
        return len(self.per_mixture["si_sdr"])

    @property
    def si_sdr(self) -> float:
        """Scale-invariant SDR, mean over the mixtures."""
        return statistics.fmean(self.per_mixture["si_sdr"])

    @property
    def si_sdri(self) -> float:
        """Improvement in SI-SDR over the mixture, mean over the mixtures."""
        return statistics.fmean(self.per_mixture["si_sdri"])

    @property
    def sdr(self) -> float:
        """SDR (BSS Eval, filter of 512 taps), mean over the mixtures."""
        return statistics.fmean(self.per_mixture["sdr"])

    @property
    def sdri(self) -> float:
        """Improvement in SDR over the mixture, mean over the mixtures."""
        return statistics.fmean(self.per_mixture["sdri"])

    def std(self, metric: str) -> float:
        """Standard deviation of a metric over the mixtures, 0 for a single one.

        Raises:
            InputError: If there is no such metric.
        """
        if metric not in self.per_mixture:
            raise InputError(f"No metric {metric!r}; the metrics are {', '.join(METRICS)}.")
        values = self.per_mixture[metric]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def as_dict(self) -> dict[str, float | int]:
        """Means, spreads (``*_std``), ``params`` and ``mixtures`` as plain numbers."""
        means = {name: statistics.fmean(self.per_mixture[name]) for name in METRICS}
        spreads = {f"{name}_std": self.std(name) for name in METRICS}
        return {**means, **spreads, "params": self.params, "mixtures": self.mixtures}


def evaluate(
    model: nn.Module,
    dataset: _Items,
    *,
    sample_rate: int,
    batch_size: int = 1,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Separate every mixture and score the estimates under their best permutation.

    The model is put in eval mode and left in the mode and on the device where it was.

    Args:
        model: Mixtures (B, T) in, estimates (B, S, T) out.
        dataset: Sized map from index to a mixture (T,) and its sources (S, T).
        sample_rate: Of the data, in Hz; compared with ``model.sample_rate`` if there is one.
        batch_size: Mixtures at a time. Those of different lengths are not put together.
        device: Where to compute; None means where the model is.

    Returns:
        The scores by mixture.

    Raises:
        DataError: If the data set is empty, or a mixture has a silent source or a NaN.
        InputError: If shapes or sample rates do not fit, or the batch size is not positive.
        MissingExtraError: If ``fast_bss_eval`` is not installed.
    """
    bss_eval = require("fast_bss_eval", "train", "Computing the SDR")
    _check_arguments(model, dataset, sample_rate, batch_size)
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    with _evaluating(model, device) as where:
        for first, mixtures, sources in _batches(dataset, batch_size):
            estimates = model(mixtures.to(where))
            _check_estimates(estimates, sources, first)
            batch = _score(bss_eval, estimates.float().cpu(), sources, mixtures)
            for name, values in batch.items():
                scores[name] += values
    return Evaluation(
        per_mixture={name: tuple(values) for name, values in scores.items()},
        params=sum(parameter.numel() for parameter in model.parameters()),
    )


def _score(
    bss_eval: Any, estimates: Tensor, sources: Tensor, mixtures: Tensor
) -> dict[str, list[float]]:
    """Means over the sources, by metric, one for each mixture of the batch."""
    unprocessed = mixtures.unsqueeze(1).expand_as(sources)
    after = pit_si_sdr(estimates, sources)[0].mean(1)
    before = si_sdr(unprocessed, sources).mean(1)
    sdr_after = _sdr(bss_eval, estimates, sources)
    sdr_before = _sdr(bss_eval, unprocessed, sources)
    return {
        "si_sdr": after.tolist(),
        "si_sdri": (after - before).tolist(),
        "sdr": sdr_after.tolist(),
        "sdri": (sdr_after - sdr_before).tolist(),
    }


def _sdr(bss_eval: Any, estimates: Tensor, sources: Tensor) -> np.ndarray:
    """SDR (B,) under the best permutation; in float64, the equations are ill-conditioned."""
    values = bss_eval.sdr(sources.double().numpy(), estimates.double().numpy())
    return np.asarray(np.mean(values, axis=-1))


@contextmanager
def _evaluating(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Eval mode, no gradients, on a device; everything as it was afterwards."""
    home = device_of(model)
    where = torch.device(device) if device is not None else home
    with eval_mode(model), torch.no_grad():
        try:
            model.to(where)
            yield where
        finally:
            model.to(home)


def _batches(dataset: _Items, batch_size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Runs of equally long mixtures: index of the first, mixtures (B, T), sources (B, S, T)."""
    run: list[tuple[Tensor, Tensor]] = []
    for index in range(len(dataset)):
        mixture, sources = dataset[index]
        _check_item(mixture, sources, index)
        if run and (len(run) == batch_size or sources.shape != run[0][1].shape):
            yield index - len(run), *_stack(run)
            run = []
        run.append((mixture, sources))
    yield len(dataset) - len(run), *_stack(run)


def _stack(run: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([item[0] for item in run]), torch.stack([item[1] for item in run])


def _check_arguments(model: nn.Module, dataset: _Items, sample_rate: int, batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"evaluate got batch_size={batch_size}; it must be at least 1.")
    if not len(dataset):
        raise DataError(
            "evaluate got an empty data set: there is no mixture to separate. Check the folder or "
            "split that it was read from."
        )
    expected = getattr(model, "sample_rate", None)
    if expected is not None and float(expected) != float(sample_rate):
        raise InputError(
            f"The data has {sample_rate} Hz but {type(model).__name__} was made for "
            f"{float(expected):g} Hz. Resample the data, or take a model of its rate."
        )


def _check_item(mixture: Tensor, sources: Tensor, index: int) -> None:
    if mixture.ndim != 1 or sources.ndim != 2 or sources.shape[1:] != mixture.shape:
        raise InputError(
            f"Item {index} of the data set has a mixture of shape {tuple(mixture.shape)} and "
            f"sources of shape {tuple(sources.shape)}; expected (T,) and (S, T) with the same T."
        )
    if not (torch.isfinite(mixture).all() and torch.isfinite(sources).all()):
        raise DataError(f"Item {index} of the data set holds NaN or infinity. Leave it out.")
    power = sources.double().var(-1, unbiased=False)
    if bool((power < SILENCE).any()):
        silent = [int(i) for i in torch.nonzero(power < SILENCE).flatten()]
        raise DataError(
            f"Item {index} of the data set has a silent source ({', '.join(map(str, silent))}): no "
            "ratio to silence means anything, and one such item shifts the mean by tens of dB. "
            "Leave it out."
        )


def _check_estimates(estimates: Any, sources: Tensor, first: int) -> None:
    shape = tuple(estimates.shape) if isinstance(estimates, Tensor) else type(estimates).__name__
    if shape != tuple(sources.shape):
        raise InputError(
            f"The model answered the batch from item {first} with {shape}; the sources are "
            f"{tuple(sources.shape)}, (B, S, T). It must return as many sources as the data has "
            "(n_src), each as long as the mixture."
        )
    if not torch.isfinite(estimates).all():
        raise DataError(
            f"The model answered the batch from item {first} with NaN or infinity: its weights are "
            "broken (did training diverge?)."
        )
