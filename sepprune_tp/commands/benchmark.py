"""``sepprune benchmark``: how long models take for one mixture, side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sepprune_tp.commands.common import (
    DeviceOption,
    RateOption,
    example_mixture,
    open_model,
    rate_of,
)
from sepprune_tp.commands.output import show
from sepprune_tp.errors import InputError

__all__ = ["benchmark"]


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="As of the other commands; the first is the reference."
        ),
    ],
    seconds: Annotated[float, typer.Option(help="Length of the mixture.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    runs: Annotated[int, typer.Option(help="How often to measure.")] = 20,
    sample_rate: RateOption = None,
    device: DeviceOption = None,
) -> dict[str, Any]:
    """Measure parameters, MACs and time of models in turns on the same mixture."""
    from rich.table import Table

    from sepprune_tp.measure.latency import compare_latency
    from sepprune_tp.profile import profile
    from sepprune_tp.reporting.summary import environment

    networks = {name: open_model(name, device) for name in models}
    rates = {rate_of(network, sample_rate) for network in networks.values()}
    if len(rates) > 1:
        raise InputError(
            f"The models have different sample rates ({', '.join(map(str, sorted(rates)))} Hz): "
            "their times do not compare. Measure them one by one."
        )
    rate = rates.pop()
    times = compare_latency(networks, seconds, rate, threads=threads, runs=runs)
    figures = {}
    for name, network in networks.items():
        cost = profile(network, example_mixture(network, seconds, rate))
        latency = times.latencies[name]
        figures[name] = {
            "params": cost.params,
            "macs": cost.macs,
            "latency_ms": latency.median_ms,
            "latency_iqr_ms": latency.iqr,
            "rtf": latency.rtf,
            "ratio": times.ratios[name],
        }
    table = Table(title=f"{seconds:g} s at {rate} Hz, {threads} thread(s), median of {runs} runs")
    table.add_column("Model", overflow="fold")
    for heading in ("Parameters", "MACs (M)", "Latency (ms)", "IQR (ms)", "RTF", "Time by first"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:,.1f}",
            f"{row['latency_ms']:.1f}",
            f"{row['latency_iqr_ms']:.1f}",
            f"{row['rtf']:.4f}",
            f"{row['ratio']:.2f}",
        )
    show(table)
    return {"models": figures, "seconds": seconds, **environment()}
