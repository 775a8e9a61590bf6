"""Seconds instead of MACs: dense and pruned models, as they are and optimised, in turns in one run.

Latency of one mixture, of a chunk of a stream, and peak memory, for the models of the FSDD
benchmark, or with ``--full`` for the same classes at Asteroid's default sizes. Models are pruned by
random scores to a share of the MACs (what is measured depends on widths only), by the masks that a
criterion of the experiment `quality` learned, or read from files; `optimised` is after
`optimize_for_inference`, `recorded` after the same with ``record=True``; the dense baseline gets
both, too.

Usage: python -m benchmarks.speed run; python -m benchmarks.speed table
       python -m benchmarks.speed run --learned sepprune/lookahead
       python -m benchmarks.speed run --model ConvTasNet --pruned pruned.safetensors
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from asteroid import models
from torch import Tensor, nn

from benchmarks.harness.cells import Cell
from benchmarks.harness.config import ConfigError, find
from benchmarks.harness.records import Records, environment, write_atomically
from benchmarks.harness.running import benches
from benchmarks.harness.zoo import build
from benchmarks.speed.table import page
from sepprune_tp import (
    Budget,
    GateSet,
    load_pruned,
    measure_memory,
    optimize_for_inference,
    profile,
)
from sepprune_tp.measure.latency import compare_latency
from sepprune_tp.measure.streaming import compare_streaming
from sepprune_tp.pruner import pruned_copy
from sepprune_tp.search import masks_for
from sepprune_tp.search.rounding import steps_for

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed.json"
MODELS = ("ConvTasNet", "SuDORMRFImprovedNet", "DPRNNTasNet")
KEYS = ("experiment", "model", "variant", "budget", "source", "mode", "seconds_of_audio", "threads")
RATE = 8000
Variants = dict[str, nn.Module]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def noise(seconds: float) -> Tensor:
    """A mixture (1, T), the same every time."""
    generator = torch.Generator().manual_seed(0)
    return 0.05 * torch.randn(1, round(seconds * RATE), generator=generator)


def dense_model(name: str, full: bool) -> nn.Module:
    """A model of the FSDD benchmark, or of Asteroid's default size; random weights."""
    if not full:
        return build(name).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: nn.Module = getattr(models, name)(n_src=2, sample_rate=RATE)
    return built.eval()


def pruned_by_chance(dense: nn.Module, budget: float, scope: str, seed: int) -> Variants:
    """Models cut to a share of the MACs by random scores, by variant.

    ``pruned auto`` has widths that the machine likes, at the same MACs.
    """
    gates = GateSet(dense, noise(1.0), scope=scope)
    gates.scores = torch.rand(len(gates), generator=torch.Generator().manual_seed(seed))
    auto = steps_for(gates, "auto")
    chosen = {
        "pruned": masks_for(gates, Budget(macs=budget)),
        "pruned auto": masks_for(gates, Budget(macs=budget), steps=auto),
    }
    found = {}
    for variant, masks in chosen.items():
        gates.load_masks(masks)
        found[variant] = pruned_copy(gates)
    return found


def learned(name: str, criterion: str, budget: float, seed: int) -> Variants:
    """The dense model of the FSDD benchmark, and the one that the masks of a record make of it.

    Raises:
        ConfigError: If the experiment has no such criterion.
    """
    experiment = find("quality")
    choices = {choice.label: choice for choice in experiment.criteria}
    if criterion not in choices:
        raise ConfigError(f"{experiment.name} has no {criterion!r}; it has {', '.join(choices)}")
    (bench,) = benches(experiment, [name])
    cell = Cell(choices[criterion], budget, seed, experiment.recoveries["pruned"])
    return {"dense": bench.dense.model, "pruned": bench.model(cell)}


def in_all_states(found: Variants) -> Variants:
    """Everything that takes turns, the dense model first."""
    states = {
        f"{key} {state}": optimize_for_inference(one, noise(1.0), record=state == "recorded")
        for state in ("optimised", "recorded")
        for key, one in found.items()
    }
    return found | states


@app.command()
def run(
    model: Annotated[str, typer.Option(help="One of the models; default: all.")] = "",
    budget: Annotated[float, typer.Option(help="Share of the MACs to keep.")] = 0.5,
    scope: Annotated[str, typer.Option(help="separator or all.")] = "all",
    full: Annotated[bool, typer.Option(help="Asteroid's default sizes.")] = False,
    pruned: Annotated[
        Path | None, typer.Option(help="A pruned model (with --model) in place of random masks.")
    ] = None,
    masks_of: Annotated[
        str, typer.Option("--learned", help="Masks of this criterion of `quality`, likewise.")
    ] = "",
    seconds: Annotated[str, typer.Option(help="Lengths of the mixtures.")] = "1,4,16",
    chunks: Annotated[str, typer.Option(help="Lengths of chunks of a stream.")] = "0.032,0.1",
    threads: Annotated[str, typer.Option(help="Numbers of threads.")] = "1,2",
    runs: Annotated[int, typer.Option(help="Rounds of every measurement.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the random scores.")] = 0,
    results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS,
) -> None:
    """Measure, and write the table."""
    if pruned is not None and not model:
        raise typer.BadParameter("--pruned needs --model: the dense model that it was made from")
    if masks_of and (full or pruned is not None):
        raise typer.BadParameter("--learned goes without --full and --pruned")
    records = Records(results, KEYS)
    for name in [model] if model else MODELS:
        began = time.perf_counter()
        torch.set_num_threads(1)
        if masks_of:
            made = learned(name, masks_of, budget, seed)
        elif pruned is not None:
            made = {"dense": dense_model(name, full), "pruned": load_pruned(pruned)}
        else:
            dense = dense_model(name, full)
            made = {"dense": dense, **pruned_by_chance(dense, budget, scope, seed)}
        turns = in_all_states(made)
        costs = {key: _costs(one) for key, one in turns.items()}
        common = {
            "experiment": "speed",
            "model": f"{name}, default size" if full else name,
            "data": "noise",
            "criterion": masks_of or ("random" if pruned is None else "file"),
            "source": _source(masks_of, pruned, scope, seed),
            "budget": budget,
            "seed": seed,
            "runs": runs,
        }
        rows = _measure(turns, _numbers(seconds), _numbers(chunks), _numbers(threads), runs)
        took = round(time.perf_counter() - began, 1)
        records.replace(
            *(
                {**common, "stage": row["variant"].split()[0], **costs[row["variant"]], **row}
                | {"seconds": took, **environment()}
                for row in rows
            )
        )
        typer.echo(f"{name}: {took:.0f} s")
    table(results)


def _source(masks_of: str, pruned: Path | None, scope: str, seed: int) -> str:
    """Where the masks are from."""
    if masks_of:
        return f"{masks_of}, seed {seed}"
    return f"random, {scope}, seed {seed}" if pruned is None else pruned.name


def _costs(model: nn.Module) -> dict[str, Any]:
    """Parameters and MACs on 1 s; those of an optimised model are those of its origin."""
    report = getattr(model, "optimisation", None)
    if report is not None:
        return {"difference": report.difference, "rewrites": report.counts()}
    cost = profile(model, noise(1.0))
    return {"params": cost.params, "macs": cost.macs}


def _measure(
    turns: Variants,
    seconds: list[float],
    chunks: list[float],
    threads: list[float],
    runs: int,
) -> list[dict[str, Any]]:
    rows = []
    for length in seconds:
        memory = {key: measure_memory(m, noise(length)).peak for key, m in turns.items()}
        for count in map(int, threads):
            rounds = max(5, round(runs / max(1.0, length)))
            found = compare_latency(turns, length, RATE, threads=count, runs=rounds)
            for key, latency in found.latencies.items():
                rows.append(
                    {
                        "variant": key,
                        "mode": "offline",
                        "seconds_of_audio": length,
                        "threads": count,
                        "latency_ms": round(latency.median_ms, 3),
                        "iqr_ms": round(latency.iqr, 3),
                        "rtf": round(latency.rtf, 5),
                        "ratio": round(found.ratios[key], 4),
                        "peak_memory": memory[key],
                    }
                )
    for length in chunks:
        for count in map(int, threads):
            stream = compare_streaming(turns, length, RATE, threads=count, runs=runs)
            for key, chunk in stream.items():
                rows.append(
                    {
                        "variant": key,
                        "mode": "stream",
                        "seconds_of_audio": length,
                        "threads": count,
                        "latency_ms": round(chunk.compute_ms, 3),
                        "delay_ms": round(chunk.delay_ms, 3),
                        "load": round(chunk.load, 4),
                        "ratio": round(chunk.ratio, 4),
                    }
                )
    return rows


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: give numbers with commas between") from error


@app.command()
def table(results: Annotated[Path, typer.Option(help="File of the records.")] = RESULTS) -> None:
    """Write the table from the records."""
    write_atomically(results.with_suffix(".md"), page(Records(results, KEYS).items))


if __name__ == "__main__":
    app()
