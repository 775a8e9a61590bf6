"""The law of random networks: whatever groups they are offered are exact, and nothing crashes.

Statistics of many:

    python tests/random_networks.py 1000 0
"""

from __future__ import annotations

import copy
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from random_plans import Network, Plan, drawn_plan, network, other_inputs, run, shrunk, tensors
from torch import Tensor

from sepprune_tp import (
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    load_pruned,
    profile,
    save_pruned,
)
from sepprune_tp.errors import InputError, SepPruneError

EXACT = 1e-9
MISTAKES = ("did not run on the example", "could not be followed", "its rule fails on it")
"""What is told of a failure of this package's own."""


@dataclass
class Outcome:
    """What came of a network.

    Attributes:
        wrong: What is against the law, or nothing.
        groups: How many groups it has.
        share: Of its parameters that go if one channel of each group stays.
        reasons: What protects its layers, by name.
        trace: Of an exception.
        steps: Its steps.
    """

    wrong: str = ""
    groups: int = 0
    share: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    trace: str = ""
    steps: list[str] = field(default_factory=list)


def outcome(plan: Plan) -> Outcome:
    """Check one network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, x = network(plan)
        found = Outcome(steps=net.names)
        checks = [by_masks, by_ratio]
        checks += {1: [by_gradients], 3: [by_file]}.get(plan.seed % 4, [])
        for check in checks:
            try:
                found.wrong = check(net, x, plan, found)
            except Exception as error:
                found.wrong = f"{check.__name__}: {type(error).__name__}: {str(error)[:300]}"
                found.trace = traceback.format_exc()
            if found.wrong:
                break
        return found


def by_masks(net: Network, x: Tensor, plan: Plan, found: Outcome) -> str:
    """Gated is cut, for two random masks."""
    dense = run(net, x)
    try:
        gates = GateSet(net, x, scope=scope(net))
    except SepPruneError as error:
        return ours(str(error))
    found.groups, found.reasons = len(gates.groups), dict(gates.graph.protected)
    if wrong := ours("; ".join(found.reasons.values())):
        return wrong
    inputs = [x, *other_inputs(net, x, plan)]
    for seed in (0, 1):
        close_some(gates, seed)
        with gates:
            gated = [run(net, one) for one in inputs]
        cut = copy.deepcopy(net)
        SepPrunePruner(cut, x, SepPruneImportance(gates)).step()
        for number, (one, wanted) in enumerate(zip(inputs, gated, strict=True)):
            try:
                got = run(cut, one)
            except Exception as error:
                return f"the cut copy fails: {type(error).__name__}: {str(error)[:200]}"
            if wrong := difference(got, wanted):
                return f"cut and gated differ on input {number}: {wrong}"
        left, cost = sum(p.numel() for p in cut.parameters()), gates.cost()
        if left != cost.params:
            return f"{left} parameters are left, {cost.params} were predicted"
        if (macs := profile(cut, x).macs) != cost.macs:
            return f"{macs} MACs are left, {cost.macs} were predicted"
    with gates:
        gates.load_masks(
            {group.name: torch.ones(group.size, dtype=torch.bool) for group in gates.groups}
        )
        if wrong := difference(run(net, x), dense):
            return f"open gates change the model: {wrong}"
    total = sum(p.numel() for p in net.parameters())
    least = gates.cost_model.exact(torch.zeros(len(gates), dtype=torch.bool)).params
    found.share = 1 - least / total
    return ""


def by_ratio(net: Network, x: Tensor, plan: Plan, found: Outcome) -> str:
    """Half of the channels can go by magnitude."""
    half = copy.deepcopy(net)
    try:
        magnitude = tp.importance.GroupMagnitudeImportance()
        SepPrunePruner(
            half, x, magnitude, 0.5, scope=scope(half), global_pruning=bool(plan.seed % 2)
        ).step()
    except SepPruneError as error:
        return "" if found.groups == 0 else f"{type(error).__name__}: {str(error)[:300]}"
    try:
        got = run(half, x)
    except Exception as error:
        return f"cut by ratio it fails: {type(error).__name__}: {str(error)[:200]}"
    dense = run(net, x)
    if [t.shape for t in got] != [t.shape for t in dense]:
        return f"cut by ratio, outputs change shape: {[tuple(t.shape) for t in got]}"
    if all(bool(t.isfinite().all()) for t in dense) > all(bool(t.isfinite().all()) for t in got):
        return "cut by ratio, outputs are not finite"
    return ""


def by_gradients(net: Network, x: Any, plan: Plan, found: Outcome) -> str:
    """Gates that are neither open nor closed get gradients."""
    if not found.groups or not learns(net, x):
        return ""
    dense = run(net, x)
    gates = GateSet(net, x, scope=scope(net))
    values = torch.linspace(0.3, 0.9, len(gates), dtype=torch.float64).requires_grad_()
    with gates:
        gates.use(values)
        learn(net, x)
        if values.grad is None and not difference(run(net, x), dense):
            return ""  # no output depends on them
    if values.grad is None or not bool(values.grad.isfinite().all()):
        return f"gradients of the gates are {values.grad}"
    return ""


def learn(net: Network, x: Any) -> None:
    """A backward pass."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = net(**x) if isinstance(x, dict) else net(*x) if isinstance(x, tuple) else net(x)
        sum(t.square().sum() for t in tensors(outputs)).backward()
    net.zero_grad()


def learns(net: Network, x: Any) -> bool:
    """Whether the dense network has a backward pass: operations in place may spoil it."""
    try:
        learn(net, x)
    except RuntimeError:
        return False
    return True


def by_file(net: Network, x: Any, plan: Plan, found: Outcome) -> str:
    """What is written into a file and read again is the same."""
    if not found.groups:
        return ""
    gates = GateSet(net, x, scope=scope(net))
    close_some(gates, 2)
    cut = copy.deepcopy(net)
    SepPrunePruner(cut, x, SepPruneImportance(gates)).step()
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(cut, Path(folder) / "cut.safetensors")
        again = load_pruned(Path(folder) / "cut.safetensors", model=network(plan)[0])
    return difference(run(again, x), run(cut, x))


def ours(told: str) -> str:
    """What is told if it is a mistake of ours, and not the true reason."""
    return next((f"told: {told[:400]}" for words in MISTAKES if words in told), "")


def close_some(gates: GateSet, seed: int) -> None:
    """Close channels at random: few in some groups and most in others."""
    generator = torch.Generator().manual_seed(seed)
    for least in (0.0, 0.3, 0.6, 1.0):
        try:
            gates.load_masks({g.name: drawn(g.size, least, generator) for g in gates.groups})
            return
        except InputError as error:  # a layer has a part of a group only, and would lose it all
            if "a part of the group" not in str(error):
                raise


def drawn(size: int, least: float, generator: torch.Generator) -> Tensor:
    """A random mask that keeps a random share, and one channel at least."""
    share = least + (1 - least) * torch.rand(1, generator=generator)
    mask = torch.rand(size, generator=generator) < share
    mask[int(torch.randint(size, (1,), generator=generator))] = True
    return mask


def difference(got: list[Tensor], wanted: list[Tensor]) -> str:
    """In words, or nothing."""
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return f"shapes {[tuple(t.shape) for t in got]} for {[tuple(t.shape) for t in wanted]}"
    for one, other in zip(got, wanted, strict=True):
        if not torch.equal(one.isfinite(), other.isfinite()):
            return "one is finite, the other is not"
        one, other = one[one.isfinite()], other[other.isfinite()]
        if one.numel() and not (one - other).abs().max() <= EXACT * (other.abs().max() + 1e-3):
            return f"{float((one - other).abs().max() / (other.abs().max() + 1e-3)):.1e}"
    return ""


def scope(net: Network) -> Any:
    """Where channels may go: everywhere, or in every other step."""
    return "all" if net.scope == "all" else list(net.steps)[::2]


# -- many of them ---------------------------------------------------------------------------------


class Statistics:
    """What came of many networks."""

    def __init__(self) -> None:
        self.start, self.found = time.perf_counter(), list[Outcome]()
        self.steps: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def add(self, found: Outcome) -> None:
        self.found.append(found)
        self.steps.update(set(found.steps))
        where = r"'?(steps\.[\w.]+|start|head)'?"
        said = (re.split(r" \(|, in ", why)[0] for why in found.reasons.values())
        self.reasons.update({re.sub(where, "a layer", why) for why in said})

    def __str__(self) -> str:
        some = [found for found in self.found if found.groups]
        count, groups = len(self.found), sum(found.groups for found in some)
        return (
            f"{count} networks in {time.perf_counter() - self.start:.0f} s: {len(some)} have "
            f"groups ({groups / max(1, len(some)):.1f} each), which hold "
            f"{100 * sum(found.share for found in some) / max(1, count):.0f} % of the parameters; "
            f"{sum(bool(found.wrong) for found in self.found)} are wrong\n"
            f"steps: {_listed(self.steps, 99)}\nreasons: {_listed(self.reasons, 12)}"
        )


def _listed(counts: Counter[str], most: int) -> str:
    return ", ".join(f"{name.strip()} {count}" for name, count in counts.most_common(most))


def main(count: int, seed: int) -> int:
    """Check many networks and say what came of them; returns 1 if something is wrong."""
    torch.set_num_threads(1)
    statistics = Statistics()
    for number in range(seed, seed + count):
        found = outcome(drawn_plan(number))
        statistics.add(found)
        if found.wrong:
            plan = shrunk(
                drawn_plan(number), lambda p, like=found: outcome(p).wrong[:20] == like.wrong[:20]
            )
            print(f"{number}: {outcome(plan).wrong}\n    {plan}", flush=True)
    print(statistics)
    return int(any(found.wrong for found in statistics.found))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
