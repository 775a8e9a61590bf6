"""Measure how long a separator takes, and compare several fairly on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of, eval_mode
from sepprune_tp.errors import InputError
from sepprune_tp.profile import call_arguments

__all__ = ["Comparison", "Latency", "Turns", "compare_latency", "compare_runs", "measure_latency"]


@dataclass(frozen=True)
class Latency:
    """Time to separate one mixture.

    Attributes:
        median_ms: Median over the runs, in milliseconds.
        iqr: Interquartile range, in milliseconds.
        rtf: Real-time factor: median time by duration of the mixture; below 1 is faster than
            real time.
    """

    median_ms: float
    iqr: float
    rtf: float


@dataclass(frozen=True)
class Comparison:
    """Latencies measured in turns.

    Attributes:
        latencies: By name of the model.
        ratios: Time of each model by that of the first, median over the rounds (0.5: twice as
            fast). Both times of a round were taken next to each other, so that whatever slows the
            machine down for a while cancels.
    """

    latencies: Mapping[str, Latency]
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Turns:
    """Two models timed in turns.

    Attributes:
        median: Seconds of the first, median.
        best: Seconds of the first, shortest: what is left when nothing else runs.
        ratio: Time of the second by that of the first, median over the rounds.
    """

    median: float
    best: float
    ratio: float


def measure_latency(
    model: nn.Module,
    seconds: float = 1.0,
    sample_rate: int = 8000,
    *,
    threads: int = 1,
    runs: int = 20,
    warmup: int = 3,
) -> Latency:
    """Measure the time of one forward pass on one mixture.

    Args:
        model: Takes mixtures (1, T); measured in eval mode, where it is.
        seconds: Duration of the mixture.
        sample_rate: In Hz.
        threads: CPU threads to use.
        runs: How often to measure.
        warmup: Passes before the first that counts.

    Returns:
        Median, spread and real-time factor.

    Raises:
        InputError: If a number is out of range.
    """
    comparison = compare_latency(
        {"model": model}, seconds, sample_rate, threads=threads, runs=runs, warmup=warmup
    )
    return comparison.latencies["model"]


def compare_latency(
    models: Mapping[str, nn.Module],
    seconds: float = 1.0,
    sample_rate: int = 8000,
    *,
    threads: int = 1,
    runs: int = 20,
    warmup: int = 3,
) -> Comparison:
    """Measure several models in turns: A B C, A B C, ...

    Args:
        models: By name; the first is the one to compare with.
        seconds: Duration of the mixture.
        sample_rate: In Hz.
        threads: CPU threads to use.
        runs: Rounds.
        warmup: Rounds before the first that counts.

    Returns:
        Latencies and ratios.

    Raises:
        InputError: If there is no model or a number is out of range.
    """
    samples = round(seconds * sample_rate)
    if not models or min(samples, threads, runs) < 1 or warmup < 0:
        raise InputError(
            f"Measuring latency needs a model, seconds * sample_rate, threads and runs of at least "
            f"1 and warmup of at least 0; got {len(models)} models, {seconds=}, {sample_rate=}, "
            f"{threads=}, {runs=}, {warmup=}."
        )
    noise = 0.05 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    times = np.empty((runs, len(models)))
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        stack.enter_context(torch.inference_mode())
        for model in models.values():
            stack.enter_context(eval_mode(model))
        inputs = {name: noise.to(device_of(model)) for name, model in models.items()}
        for run in range(-warmup, runs):
            for column, (name, model) in enumerate(models.items()):
                elapsed = _time(model, inputs[name])
                if run >= 0:
                    times[run, column] = elapsed
    return _summarise(list(models), times, seconds)


def compare_runs(
    first: nn.Module,
    second: nn.Module,
    example_inputs: Any,
    *,
    threads: int = 1,
    seconds: float = 1.0,
    least: int = 10,
) -> Turns:
    """Time two models in turns on one input.

    Args:
        first: The one to compare with.
        second: The other.
        example_inputs: What both are called with.
        threads: CPU threads.
        seconds: For how long to measure.
        least: Rounds at least.

    Returns:
        Times of the first and the ratio.
    """
    args, kwargs = call_arguments(example_inputs)
    device = device_of(first)
    pairs: list[tuple[float, float]] = []
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        stack.enter_context(torch.inference_mode())
        for model in (first, second):
            stack.enter_context(eval_mode(model))
            _timed(lambda model=model: model(*args, **kwargs), device)  # type: ignore[misc]
        began = time.perf_counter()
        while len(pairs) < least or time.perf_counter() - began < seconds:
            one = _timed(lambda: first(*args, **kwargs), device)
            pairs.append((one, _timed(lambda: second(*args, **kwargs), device)))
    ones = [one for one, _ in pairs]
    ratio = float(np.median([other / one for one, other in pairs]))
    return Turns(float(np.median(ones)), min(ones), ratio)


def _summarise(names: list[str], times: np.ndarray, seconds: float) -> Comparison:
    """Turn times in seconds (runs, models) into figures."""
    quartiles = np.percentile(times, [25, 50, 75], axis=0)
    ratios = np.median(times / times[:, :1], axis=0)
    latencies = {
        name: Latency(
            median_ms=float(1e3 * middle),
            iqr=float(1e3 * (high - low)),
            rtf=float(middle / seconds),
        )
        for name, low, middle, high in zip(names, *quartiles, strict=True)
    }
    return Comparison(latencies, dict(zip(names, map(float, ratios), strict=True)))


def _time(model: nn.Module, mixture: Tensor) -> float:
    """Seconds for one forward pass, the device's queue included."""
    return _timed(lambda: model(mixture), mixture.device)


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run, the device's queue included."""
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
