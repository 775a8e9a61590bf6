"""What a search step costs beside a plain forward and backward pass with frozen weights.

Default-size Conv-TasNet (5.05 M parameters), one mixture of 2 s at 8 kHz, one thread, in turn in
one run: a block of plain steps (gradient of the loss to the input), a block of search steps, one of
steps that look ahead, and again. Also times the channel graph and measures its memory, in a process
of its own.

Usage: python -m benchmarks.search.cost search; python -m benchmarks.search.cost graph
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from asteroid.models import ConvTasNet

from benchmarks.harness.records import Records, environment, origin, write_atomically
from sepprune_tp import Budget, ChannelGraph, GateSet, learn_gates
from sepprune_tp.losses import pit_neg_si_sdr

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "search_cost.json"
KEYS = ("experiment", "model")
SEARCHES = {"search_cost": "A step", "search_cost_lookahead": "A step that looks ahead"}


def graph_cost(threads: int = 1) -> dict[str, float]:
    """Seconds and extra peak MB of the graph of a default-size Conv-TasNet on 1 s at 16 kHz.

    Linux only: the kernel's record of the peak is reset first, so that what the imports took does
    not hide it.
    """
    torch.set_num_threads(threads)
    model, x = ConvTasNet(2), torch.randn(1, 16000)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    began = time.perf_counter()
    graph = ChannelGraph().build_dependency(model, x)
    seconds = time.perf_counter() - began
    extra = _memory("VmHWM") - before
    return {"graph_seconds": seconds, "graph_mb": extra, "groups": len(graph.prunable_sets())}


def _memory(field: str) -> float:
    """A field of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status: this measurement needs Linux")


def plain_block(model: torch.nn.Module, batch: Any, steps: int) -> float:
    """Seconds of ``steps`` forward and backward passes with frozen weights."""
    mixture, sources = batch
    mixture = mixture.clone().requires_grad_()
    began = time.perf_counter()
    for _ in range(steps):
        mixture.grad = None
        pit_neg_si_sdr(model(mixture), sources).backward()
    return time.perf_counter() - began


def search_block(gates: GateSet, batch: Any, steps: int, lookahead: bool = False) -> float:
    """Seconds of ``steps`` steps of the search, set-up and final masks included."""
    began = time.perf_counter()
    budget = Budget(macs=0.5)
    learn_gates(gates, [batch], budget=budget, steps=steps, progress=False, lookahead=lookahead)
    return time.perf_counter() - began


app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def search(
    rounds: Annotated[int, typer.Option(help="How often the two take turns.")] = 5,
    block: Annotated[int, typer.Option(help="Steps in a turn.")] = 16,
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
) -> None:
    """Measure search steps against plain steps."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ConvTasNet(2).eval().requires_grad_(False)
    sources = torch.randn(1, 2, 16000)
    batch = (sources.sum(1), sources)
    gates = GateSet(model, torch.randn(1, 16000))
    plain_block(model, batch, 2)
    search_block(gates, batch, 3)
    plain: list[float] = []
    found: dict[str, list[float]] = {"search_cost": [], "search_cost_lookahead": []}
    for _ in range(rounds):
        plain.append(plain_block(model, batch, block) / block)
        for name, times in found.items():
            ahead = name.endswith("lookahead")
            times.append(search_block(gates, batch, block, ahead) / block)
    for name, times in found.items():
        ratios = [s / p for s, p in zip(times, plain, strict=True)]
        _write(
            experiment=name,
            mixture_seconds=2.0,
            threads=threads,
            plain_step_seconds=statistics.median(plain),
            search_step_seconds=statistics.median(times),
            ratio=statistics.median(ratios),
            ratios=ratios,
        )


@app.command()
def graph(
    rounds: Annotated[int, typer.Option(help="In how many processes.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
) -> None:
    """Measure the channel graph, each time in a process of its own."""
    torch.set_num_threads(threads)  # of this process too, whose number the record states
    code = (
        "import json; from benchmarks.search import cost; "
        f"print(json.dumps(cost.graph_cost({threads})))"
    )
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    _write(experiment="graph_cost", **medians, seconds_each=[one["graph_seconds"] for one in found])


def _parameters() -> int:
    return sum(p.numel() for p in ConvTasNet(2).parameters())


def _write(**figures: Any) -> None:
    model = {"model": "ConvTasNet(n_src=2), default size", "params": _parameters()}
    record = {**model, **figures, **environment()}
    records = Records(RESULTS, KEYS)
    records.replace(record)
    write_atomically(RESULTS.with_suffix(".md"), page(records.items))
    print(json.dumps(figures, indent=1))


@app.command()
def table() -> None:
    """Write the page from the records."""
    write_atomically(RESULTS.with_suffix(".md"), page(Records(RESULTS, KEYS).items))


def page(records: list[dict[str, Any]]) -> str:
    """What a step of the search costs, and what the graph does, as Markdown."""
    found = {record["experiment"]: record for record in records}
    lines = ["# What a search step costs", ""]
    for name, title in SEARCHES.items():
        if name in found:
            one = found[name]
            ratios = ", ".join(f"{ratio:.2f}" for ratio in one["ratios"])
            lines.append(
                f"- {title}: {one['ratio']:.2f} × a forward and backward pass with frozen weights "
                f"({one['search_step_seconds']:.2f} s against {one['plain_step_seconds']:.2f} s; "
                f"turns: {ratios}; {one['model']}, {one['mixture_seconds']:g} s of audio, "
                f"{one['threads']} thread(s))."
            )
    if "graph_cost" in found:
        one = found["graph_cost"]
        lines.append(
            f"- Channel graph of the same model on 1 s at 16 kHz: {one['graph_seconds']:.2f} s and "
            f"{one['graph_mb']:.0f} MB (median of {len(one['seconds_each'])} processes), "
            f"{one['groups']} groups."
        )
    return "\n".join([*lines, "", origin(records), ""])


if __name__ == "__main__":
    app()
