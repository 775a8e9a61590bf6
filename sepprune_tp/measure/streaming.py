"""What separating a stream costs: time for each chunk that arrives.

The separators here are not causal, so a stream is separated block by block: each new chunk is run
together with the ``context`` before it, and the newest part of the estimates is what goes out.
Statistics of global norms are then those of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from sepprune_tp.errors import InputError
from sepprune_tp.measure.latency import compare_latency

__all__ = ["ChunkLatency", "compare_streaming"]


@dataclass(frozen=True)
class ChunkLatency:
    """Time to separate one chunk of a stream.

    Attributes:
        compute_ms: Median time of the forward pass on context and chunk, in milliseconds.
        delay_ms: From the first sample of a chunk to its estimates: the chunk and the computation.
        load: Computation by duration of the chunk; a stream keeps up below 1.
        ratio: Time by that of the first model, measured in turns.
    """

    compute_ms: float
    delay_ms: float
    load: float
    ratio: float


def compare_streaming(
    models: Mapping[str, nn.Module],
    chunk: float,
    sample_rate: int = 8000,
    *,
    context: float = 1.0,
    threads: int = 1,
    runs: int = 20,
) -> dict[str, ChunkLatency]:
    """Measure the time for a chunk of several models in turns.

    Args:
        models: By name; the first is the one to compare with.
        chunk: Seconds of audio that arrive at once, e.g. 0.032 or 0.1.
        sample_rate: In Hz.
        context: Seconds before the chunk that are run again with it.
        threads: CPU threads.
        runs: Rounds.

    Returns:
        By name of the model.

    Raises:
        InputError: If a number is out of range.
    """
    if chunk <= 0 or context < 0:
        raise InputError(f"chunk must be above 0 and context at least 0, got {chunk=}, {context=}")
    times = compare_latency(models, chunk + context, sample_rate, threads=threads, runs=runs)
    found = {}
    for name, latency in times.latencies.items():
        compute = latency.median_ms
        load = compute / (1e3 * chunk)
        found[name] = ChunkLatency(compute, 1e3 * chunk + compute, load, times.ratios[name])
    return found
