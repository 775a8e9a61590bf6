"""torchvision's classification models, pruned by torch-pruning at 50 %: its graph and ours.

For each model torch-pruning's ``MagnitudePruner`` halves all widths but the classes, on its own
graph and on ours, and the result has to run forwards and backwards. On our graph, gates with random
hard masks must give what the model gives that is pruned with those masks (in float64). Random
weights, inputs of 64 pixels where the model takes them.

Usage: python -m benchmarks.torchvision_models [MODEL ...]
"""

from __future__ import annotations

import copy
import gc
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torchvision import models

from benchmarks.harness.randomised import randomise
from benchmarks.harness.records import Records, environment, origin, write_atomically
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import ChannelGraph, channel_graph
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "torchvision.json"
PIXELS = {"inception_v3": 96, "maxvit_t": 224}
LARGE = 100_000_000
"""Parameters from which a model is left out unless it is asked for by name."""


MEMORY = 12 << 30
"""Bytes of address space that pruning one model may take."""
SECONDS = 120
"""Seconds that it may take."""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model with random weights in eval mode, and an input."""
    torch.manual_seed(0)
    pixels = PIXELS.get(name, 64)
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    if name.startswith("vit"):
        options["image_size"] = pixels - pixels % (14 if "14" in name else 16)
        pixels = options["image_size"]
    batch = 1 if pixels > 200 else 2
    return models.get_model(name, **options).eval(), torch.randn(batch, 3, pixels, pixels)


def pruned(name: str, ours: bool) -> dict[str, Any]:
    """Prune with torch-pruning's own pruner; whether it ran, how long it took, what is left."""
    model, x = build(name)
    before = sum(p.numel() for p in model.parameters())
    classes = [m for m in model.modules() if getattr(m, "out_features", 0) == 1000]
    began = time.perf_counter()
    try:
        with channel_graph("all") if ours else nullcontext():
            importance = tp.importance.MagnitudeImportance(p=1)
            pruner = tp.pruner.MagnitudePruner(
                model,
                x,
                importance,
                pruning_ratio=0.5,
                ignored_layers=classes,
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
        model.eval()(x).sum().backward()
        outcome = "works"
    except Exception as error:  # whatever goes wrong is the result
        lines = str(error).strip().splitlines()
        outcome = f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
    seconds = time.perf_counter() - began
    left = sum(p.numel() for p in model.parameters()) / before
    return {"outcome": outcome, "seconds": round(seconds, 1), "params": round(left, 3)}


def in_process(name: str, who: str) -> dict[str, Any]:
    """:func:`pruned` in a process of its own, with limits on its memory and time."""
    command = [sys.executable, "-m", "benchmarks.torchvision_models", "--one", name, who]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"outcome": f"more than {SECONDS} s", "seconds": SECONDS, "params": 1.0}
    if done.returncode:
        return {"outcome": f"died with code {done.returncode}", "seconds": 0, "params": 1.0}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def exactness(name: str) -> dict[str, Any]:
    """Groups on our graph, and the relative difference between gated and pruned model."""
    model, x = build(name)
    model, x = model.double(), x.double()
    randomise(model, 0.2)
    began = time.perf_counter()
    graph = ChannelGraph("all").build_dependency(model, x)
    seconds = time.perf_counter() - began
    free = [s for c in graph.prunable_sets() for s in c.sites if isinstance(s.owner, nn.Module)]
    owned = {p: None for site in free for p in site.owner.parameters()}
    total = sum(p.numel() for p in model.parameters())
    gates = GateSet(model, x, scope="all")
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for group in gates.groups:
        masks[group.name] = torch.rand(group.size, generator=generator) < 0.5
        masks[group.name][0] = True
    gates.load_masks(masks)
    cut = copy.deepcopy(model)
    SepPrunePruner(cut, x, SepPruneImportance(gates)).step()
    with torch.no_grad(), gates:
        gated = model(x)
    with torch.no_grad():
        dense, found = model(x), cut(x)
    scale = float(found.abs().max())
    return {
        "groups": len(gates.groups),
        "prunable": round(sum(p.numel() for p in owned) / total, 3),
        "graph_seconds": round(seconds, 2),
        "difference": float((gated - found).abs().max()) / scale,
        "from_dense": float((gated - dense).abs().max()) / scale,
        "protected": _reasons(graph),
    }


def _reasons(graph: ChannelGraph) -> dict[str, int]:
    """Why layers are protected, with how many they are; the place in the code is left out."""
    counts: dict[str, int] = {}
    for reason in graph.protected.values():
        short = reason.partition(", in '")[0]
        counts[short] = counts.get(short, 0) + 1
    return counts


def table(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    works = {who: sum(r[who]["outcome"] == "works" for r in records) for who in ("theirs", "ours")}
    lines = [
        "# torchvision's classification models at 50 %",
        "",
        "Written by `python -m benchmarks.torchvision_models` from `torchvision.json`. Random "
        "weights and masks, one seed (0). " + origin(records),
        "",
        f"{len(records)} models; torch-pruning's graph prunes {works['theirs']}, ours "
        f"{works['ours']}; gated = pruned within 1e-10 for "
        f"{sum(r['difference'] <= 1e-10 for r in records)}.",
        "",
        "| model | torch-pruning | parameters left | ours | parameters left | groups | "
        "parameters in prunable layers | gated - pruned | gated - dense | seconds (tp / ours) |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(records, key=lambda r: str(r["model"])):
        theirs, ours = r["theirs"], r["ours"]
        lines.append(
            f"| {r['model']} | {theirs['outcome'].replace('|', ' ')} | {theirs['params']:.0%} | "
            f"{ours['outcome'].replace('|', ' ')} | {ours['params']:.0%} | {r['groups']} | "
            f"{r['prunable']:.0%} | {r['difference']:.0e} | {r['from_dense']:.0e} | "
            f"{theirs['seconds']:.1f} / {ours['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def chosen(names: list[str], store: Records) -> Iterator[str]:
    """The models that were asked for, else those up to a size that were not measured yet."""
    if names:
        yield from names
        return
    for name in models.list_models(module=models):
        size = models.get_model_weights(name)["DEFAULT"].meta["num_params"]
        if size <= LARGE and not store.find(model=name):
            yield name


def main() -> None:
    """Measure, and write record and table after every model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        print(json.dumps(pruned(sys.argv[2], ours=sys.argv[3] == "ours")))
        return
    store = Records(RESULTS)
    for name in chosen(sys.argv[1:], store):
        record: dict[str, Any] = {"experiment": "torchvision", "criterion": name, "model": name}
        record |= {who: in_process(name, who) for who in ("theirs", "ours")}
        try:
            record |= exactness(name) | environment()
        except Exception as error:
            print(name, "has no exactness:", type(error).__name__, error)
            continue
        store.replace(record)
        write_atomically(RESULTS.with_suffix(".md"), table(store.items))
        print({k: record[k] for k in ("model", "theirs", "ours", "difference", "from_dense")})
        gc.collect()


if __name__ == "__main__":
    main()
