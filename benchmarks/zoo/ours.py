"""What is measured of the channel graph on one row; runs in a process of its own."""

from __future__ import annotations

import copy
import inspect
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.zoo.failures import Failures
from benchmarks.zoo.outputs import InDouble, call, difference, double, floats, larger
from benchmarks.zoo.row import ZooRow

__all__ = ["EXACT", "RATIO", "ours"]

RATIO = 0.5
SEEDS = (0, 1)
EXACT = {"float64": 1e-9, "float32": 1e-4}
"""Largest relative difference between gated and pruned that counts as none."""

Tell = Callable[[dict[str, Any]], None]


def ours(row: ZooRow, tell: Tell) -> None:
    """Measure a row in stages; each tells what it found, so that little is lost if one ends it.

    Args:
        row: The row.
        tell: Takes figures; the last of a name counts.
    """
    failures = Failures()
    model, example = row.build(), row.example()
    began = time.perf_counter()
    with torch.no_grad():
        dense = _out(row, call(model, example))
    params = sum(p.numel() for p in model.parameters())
    seconds = round(time.perf_counter() - began, 3)
    tell({"params": params, "forward_seconds": seconds, "outputs": len(floats(dense))})
    with failures.stage("graph"):
        tell(_graph(row, model, example))
    tell({"failures": failures.found, "stage": "exactness"})
    with failures.stage("exactness"):
        _exactness(row, tell, failures)
    tell({"failures": failures.found, "stage": "ratio"})
    with failures.stage("ratio"):
        tell(_by_ratio(row, failures, dense))
    tell({"failures": failures.found, "stage": "done"})


def _out(row: ZooRow, output: Any) -> Any:
    return output if row.output is None else row.output(output)


class _Task(nn.Module):
    """A network whose output is that of the task, where no ``output_transform`` is taken."""

    def __init__(self, model: nn.Module, output: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.output(self.model(*args, **keywords))


def _prepared(row: ZooRow, model: nn.Module, entry: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The model as it is given to an entry point, and the options that go with it."""
    if row.output is None:
        return model, {}
    if "output_transform" in inspect.signature(entry).parameters:
        return model, {"output_transform": row.output}
    return _Task(model, row.output).train(model.training), {}


# -- the graph ------------------------------------------------------------------------------------


def _graph(row: ZooRow, model: nn.Module, example: Any) -> dict[str, Any]:
    from sepprune_tp import ChannelGraph

    given, options = _prepared(row, model, ChannelGraph.build_dependency)
    began = time.perf_counter()
    graph = ChannelGraph("all").build_dependency(given, example, **options)
    seconds = time.perf_counter() - began
    report = graph.report()
    return {
        "graph_seconds": round(seconds, 2),
        "groups": len(report.groups),
        "channels": sum(group.channels for group in report.groups),
        "share": round(report.share, 4),
        "reasons": _reasons(given, report.protected),
    }


def _reasons(model: nn.Module, protected: Any) -> list[dict[str, Any]]:
    """What protects most, by the parameters of the layers that it keeps whole; three at most."""
    named: dict[str, Any] = dict(model.named_modules()) | dict(model.named_parameters())
    found: dict[str, dict[str, Any]] = {}
    for row in protected:
        kind = row.reason.partition(", in '")[0]
        entry = found.setdefault(
            kind, {"reason": row.reason, "layers": 0, "channels": 0, "params": 0}
        )
        owner = named.get(row.layer)
        held = [owner] if isinstance(owner, Tensor) else _own_parameters(owner)
        entry["layers"] += 1
        entry["channels"] += row.channels
        entry["params"] += sum(p.numel() for p in held)
    return sorted(found.values(), key=lambda entry: -int(entry["params"]))[:3]


def _own_parameters(owner: nn.Module | None) -> list[Tensor]:
    return [] if owner is None else list(owner.parameters(recurse=False))


# -- gated against cut ----------------------------------------------------------------------------


def _exactness(row: ZooRow, tell: Tell, failures: Failures) -> None:
    """Compare in float64 if the network runs in it, else in float32."""
    with ExitStack() as stack:
        try:
            model, example = _in_double(row, stack)
            precision = "float64"
        except Exception:  # its code asks for float32 somewhere
            stack.close()
            model, example, precision = row.build(), row.example(), "float32"
        tell({"precision": precision})
        _compare(row, model, example, tell, failures)


def _in_double(row: ZooRow, stack: ExitStack) -> tuple[nn.Module, Any]:
    before = torch.get_default_dtype()
    stack.callback(torch.set_default_dtype, before)
    example = double(row.example())
    torch.set_default_dtype(torch.float64)
    stack.enter_context(InDouble())
    model = row.build().double()
    with torch.no_grad():
        found = floats(_out(row, call(model, example)))
    if any(t.dtype not in (torch.float64, torch.complex128) for t in found):
        raise TypeError("an output is not in float64")
    return model, example


def _compare(row: ZooRow, model: nn.Module, example: Any, tell: Tell, failures: Failures) -> None:
    from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner

    given, options = _prepared(row, model, GateSet.__init__)
    out = (lambda found: found) if given is not model else (lambda found: _out(row, found))
    gates = GateSet(given, example, scope="all", **options)
    with torch.no_grad():
        dense = out(call(given, example))
    errors, change = [], 0.0
    for seed in SEEDS:
        gates.load_masks(_masks(gates, seed))
        with torch.no_grad(), gates:
            gated = out(call(given, example))
        cut = copy.deepcopy(given)
        SepPrunePruner(cut, example, SepPruneImportance(gates), **options).step()
        with torch.no_grad():
            pruned = out(call(cut, example))
        errors.append(difference(gated, pruned))
        change = max(change, difference(gated, dense))
        tell({"errors": errors, "change": change})
        if len(errors) == 1:
            tell({"left_by_masks": sum(p.numel() for p in cut.parameters())})
            tell(_on_another_batch(gates, given, cut, example, out))
        if [t.shape for t in floats(pruned)] != [t.shape for t in floats(dense)]:
            failures.add("exactness", "wrong shape", "the output of the pruned model changed shape")


def _on_another_batch(
    gates: Any, model: nn.Module, cut: nn.Module, example: Any, out: Callable[[Any], Any]
) -> dict[str, float]:
    """The same comparison with one item more, where the dense network takes that."""
    try:
        more = larger(example)
        with torch.no_grad():
            call(model, more)
    except Exception:  # it runs on this batch size only
        return {}
    with torch.no_grad(), gates:
        gated = out(call(model, more))
    with torch.no_grad():
        return {"error_another_batch": difference(gated, out(call(cut, more)))}


def _masks(gates: Any, seed: int) -> dict[str, Tensor]:
    """A random part of each group, half of it on average, one channel at least."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for group in gates.groups:
        mask = torch.rand(group.size, generator=generator, dtype=torch.float32) < 0.5
        mask[int(torch.randint(group.size, (1,), generator=generator))] = True
        masks[group.name] = mask
    return masks


# -- at a ratio -----------------------------------------------------------------------------------


def _by_ratio(row: ZooRow, failures: Failures, dense: Any) -> dict[str, Any]:
    """Prune by magnitude, run forwards and backwards, and bring through a file."""
    from sepprune_tp import SepPrunePruner

    model, example = row.build(), row.example()
    given, options = _prepared(row, model, tp.pruner.BasePruner.__init__)
    importance = tp.importance.GroupMagnitudeImportance()
    SepPrunePruner(given, example, importance, RATIO, scope="all", **options).step()
    found: dict[str, Any] = {"left": sum(p.numel() for p in model.parameters())}
    with failures.stage("forward"):
        output = _out(row, call(model, example))
        if [t.shape for t in floats(output)] != [t.shape for t in floats(dense)]:
            failures.add("forward", "wrong shape", "the output of the pruned model changed shape")
        found["forward"] = True
    if found.get("forward"):
        with failures.stage("backward"):
            found["backward"] = _backward(model, output)
        with failures.stage("file"):
            found["round_trip"] = _round_trip(row, model, example)
    return found


def _backward(model: nn.Module, output: Any) -> str:
    """Whether gradients of the sum of squares are finite; what has none is named."""
    with_gradient = [t for t in floats(output) if t.requires_grad]
    if not with_gradient:
        return "no output has a gradient"
    torch.stack([t.abs().square().sum() for t in with_gradient]).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        raise ValueError("no parameter got a gradient")
    if not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise ValueError("a gradient is not finite")
    return "finite"


def _round_trip(row: ZooRow, model: nn.Module, example: Any) -> str:
    from sepprune_tp import load_pruned, save_pruned

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "pruned.safetensors"
        save_pruned(model, path)
        again = load_pruned(path) if row.importable else load_pruned(path, model=row.build())
        apart = difference(call(again, example), call(model, example))
    return "bit for bit" if apart == 0 else f"differs by {apart:.0e}"
