"""What a search step costs beside a plain forward and backward pass with frozen weights.

Default-size Conv-TasNet (5.05 M parameters), one mixture of 2 s at 8 kHz, one thread, in turn in
one run: a block of plain steps (gradient of the loss to the input), a block of search steps, and
again. Also times the channel graph and measures its memory, in a process of its own.

Usage: python benchmarks/search_cost.py [--rounds 6] [--block 4]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from _records import environment, write_atomically
from asteroid.models import ConvTasNet

from sepprune_tp import Budget, ChannelGraph, GateSet, learn_gates
from sepprune_tp.losses import pit_neg_si_sdr

RESULTS = Path(__file__).parent / "results" / "search_cost.json"
WARM_UP_SHARE = 20  # learn_gates measures for steps // 20 steps before it learns


def graph_cost() -> dict[str, float]:
    """Seconds and extra peak MB of the graph of a default-size Conv-TasNet on 1 s at 16 kHz."""
    model, x = ConvTasNet(2), torch.randn(1, 16000)
    with torch.no_grad():
        model(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    graph = ChannelGraph().build_dependency(model, x)
    seconds = time.perf_counter() - began
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"graph_seconds": seconds, "graph_mb": extra, "groups": len(graph.prunable_sets())}


def plain_block(model: torch.nn.Module, batch: Any, steps: int) -> float:
    """Seconds of ``steps`` forward and backward passes with frozen weights."""
    mixture, sources = batch
    mixture = mixture.clone().requires_grad_()
    began = time.perf_counter()
    for _ in range(steps):
        mixture.grad = None
        pit_neg_si_sdr(model(mixture), sources).backward()
    return time.perf_counter() - began


def search_block(gates: GateSet, batch: Any, steps: int) -> float:
    """Seconds of ``steps`` steps of the search, set-up and final masks included."""
    began = time.perf_counter()
    learn_gates(gates, [batch], budget=Budget(macs=0.5), steps=steps, progress=False)
    return time.perf_counter() - began


def main(
    rounds: Annotated[int, typer.Option(help="How often the two take turns.")] = 6,
    block: Annotated[int, typer.Option(help="Steps in a turn.")] = 8,
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
) -> None:
    """Measure and write benchmarks/results/search_cost.json."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ConvTasNet(2).eval().requires_grad_(False)
    sources = torch.randn(1, 2, 16000)
    batch = (sources.sum(1), sources)
    gates = GateSet(model, torch.randn(1, 16000))
    plain_block(model, batch, 2)
    search_block(gates, batch, 3)
    plain, search = [], []
    for _ in range(rounds):
        plain.append(plain_block(model, batch, block) / block)
        search.append(search_block(gates, batch, block) / block)
    ratios = [s / p for s, p in zip(search, plain, strict=True)]
    record = {
        "experiment": "search_cost",
        "model": "ConvTasNet(n_src=2), default size",
        "params": sum(p.numel() for p in model.parameters()),
        "mixture_seconds": 2.0,
        "threads": threads,
        "plain_step_seconds": statistics.median(plain),
        "search_step_seconds": statistics.median(search),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        **_graph_in_own_process(),
        **environment(),
    }
    write_atomically(RESULTS, json.dumps([record], indent=1) + "\n")
    print({k: record[k] for k in ("ratio", "ratios", "graph_seconds", "graph_mb")})


def _graph_in_own_process() -> dict[str, float]:
    code = "import json, search_cost; print(json.dumps(search_cost.graph_cost()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )

    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    typer.run(main)
