"""What one row of the graph benchmark measures; every function here runs in a process of its own.

Linux only: memory is the kernel's record of the peak, reset before each measurement.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.graph.rows import GraphRow

__all__ = ["ours", "torch_pruning_alone"]

REPEATS = 3  # builds of the graph; the median is told


def ours(row: GraphRow) -> dict[str, Any]:
    """The channel graph, and how exact the gates are on it.

    Returns:
        Groups, what can be pruned, seconds and MB of the graph, errors in both precisions.
    """
    from sepprune_tp import ChannelGraph

    model, x = row.build(), row.example()
    ChannelGraph("all").build_dependency(nn.Conv1d(1, 2, 1), torch.randn(1, 1, 8))  # imports
    seconds = []
    before = _reset_peak()
    for turn in range(REPEATS):
        began = time.perf_counter()
        graph = ChannelGraph(row.scope).build_dependency(model, x)
        seconds.append(time.perf_counter() - began)
        if turn == 0:
            extra = _memory("VmHWM") - before
    report = graph.report()
    began = time.perf_counter()
    with torch.no_grad():
        model(x)
    figures = {
        "params": report.params,
        "groups": len(report.groups),
        "channels": sum(group.channels for group in report.groups),
        "prunable": round(report.share, 4),
        "protected": {row.layer: row.reason for row in report.protected},
        "forward_seconds": round(time.perf_counter() - began, 3),
        "graph_seconds": round(sorted(seconds)[REPEATS // 2], 3),
        "graph_mb": round(extra, 1),
    }
    for precision in (torch.float32, torch.float64):
        figures |= _exactness(model, x, row.scope, precision)
    return figures


def _exactness(model: nn.Module, x: Tensor, scope: str, precision: torch.dtype) -> dict[str, Any]:
    """Largest difference between gated and pruned model, relative to the largest output."""
    from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner

    model, x = copy.deepcopy(model).to(precision), x.to(precision)
    gates = GateSet(model, x, scope=scope)
    gates.load_masks(half_masks(gates))
    with torch.no_grad():
        dense: Tensor = model(x)
        with gates:
            gated: Tensor = model(x)
        SepPrunePruner(model, x, SepPruneImportance(gates)).step()
        pruned: Tensor = model(x)
    name, scale = str(precision).removeprefix("torch."), float(pruned.abs().max())
    kept = sum(p.numel() for p in model.parameters())
    figures: dict[str, Any] = {f"error_{name}": float((gated - pruned).abs().max()) / scale}
    if precision == torch.float64:
        figures["change"] = float((gated - dense).abs().max()) / float(dense.abs().max())
        figures["params_left"] = kept
        figures["params_predicted"] = gates.cost().params
    return figures


def half_masks(gates: Any) -> dict[str, Tensor]:
    """A random half of each group."""
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for group in gates.groups:
        masks[group.name] = torch.zeros(group.size, dtype=torch.bool)
        chosen = torch.randperm(group.size, generator=generator)[: max(1, group.size // 2)]
        masks[group.name][chosen] = True
    return masks


def torch_pruning_alone(row: GraphRow) -> dict[str, Any]:
    """torch-pruning's own graph: 50 % magnitude pruning, with the layers that must stay spared.

    It cannot know them, so they are named to it: those that our graph protects.

    Returns:
        Whether the pruned model runs and gives the same shape, seconds and MB.
    """
    import torch_pruning as tp

    from sepprune_tp import ChannelGraph

    model, x = row.build(), row.example()
    protected = ChannelGraph("all").build_dependency(model, x).protected
    modules = dict(model.named_modules())
    spared = [modules[name] for name in protected if name in modules]
    with torch.no_grad():
        dense: Tensor = model(x)
    params = sum(p.numel() for p in model.parameters())
    before, began = _reset_peak(), time.perf_counter()
    outcome = {"works": False, "stage": "building the graph"}
    try:
        pruner = tp.pruner.MetaPruner(
            model,
            x,
            tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=spared,
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
        outcome["stage"] = "pruning"
        pruner.step()
        outcome["stage"] = "running the pruned model"
        with torch.no_grad():
            pruned: Tensor = model(x)
        left = sum(p.numel() for p in model.parameters())
        outcome |= {"params_left": left, "works": pruned.shape == dense.shape and left < params}
        if outcome["works"]:
            outcome["how"] = f"{left / params:.0%} of the parameters left"
        else:
            outcome["how"] = "it runs, but nothing was pruned or the output has another shape"
    except Exception as error:  # whatever it dies of is the result
        lines = str(error).strip().splitlines() or [""]
        outcome["how"] = f"{type(error).__name__}: {lines[0][:120]}"
    seconds = round(time.perf_counter() - began, 3)
    return outcome | {"seconds": seconds, "mb": round(_memory("VmHWM") - before, 1)}


def _reset_peak() -> float:
    """Forget the peak; returns the present MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> float:
    """A field of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status: this measurement needs Linux")
