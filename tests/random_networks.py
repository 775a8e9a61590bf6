"""Random networks, and the law that what they are offered is exact.

A plan is plain data: a layout, and for each step its name and a few small numbers. Any plan is a
network: steps that do not fit the tensor they would get are left out. Statistics of many:

    python tests/random_networks.py 1000 0
"""

from __future__ import annotations

import copy
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import random_blocks  # noqa: F401  (registers its steps)
import random_code  # noqa: F401
import random_layers  # noqa: F401
import random_operations  # noqa: F401
import random_shapes  # noqa: F401
import torch
import torch_pruning as tp
from random_forms import WIDTHS, Form, Moved, Pick, Step, UnfitError
from random_shapes import Again
from torch import Tensor, nn

from sepprune_tp import (
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    load_pruned,
    profile,
    save_pruned,
)
from sepprune_tp.errors import InputError, SepPruneError

LAYOUTS: dict[str, Form] = {
    "bct": Form("bct", (2, 3, 6)),
    "btc": Form("btc", (2, 6, 3)),
    "bchw": Form("bchw", (2, 3, 4, 2)),
    "bhwc": Form("bhwc", (2, 2, 4, 3)),
    "tc": Form("tc", (6, 3)),
    "bc": Form("bc", (2, 3)),
    "tokens": Form("btc", (2, 6, 3)),
}
KINDS = [*sorted(Step.kinds), "Split", "Merge", "Merge"]
NUMBERS = 12
"""Numbers that a step is drawn from, each below 60."""
EXACT = 1e-9
MISTAKES = ("did not run on the example", "could not be followed", "its rule fails on it")
"""What is told of a failure of this package's own."""


@dataclass(frozen=True)
class Plan:
    """What a network is made of.

    Attributes:
        layout: One of ``LAYOUTS``.
        steps: Name and numbers of each.
        ends: Numbers for what comes before and after them.
        seed: Of the weights.
    """

    layout: str
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    ends: tuple[int, ...] = ()
    seed: int = 0


@dataclass
class Answer:
    """An output in an object."""

    result: Any
    hidden: Any = None


PACKS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda y, h: y,
    "dict": lambda y, h: {"result": y, "count": 1},
    "answer": lambda y, h: Answer(y),
    "nested": lambda y, h: [(y, None), {"more": SimpleNamespace(y=y * 2)}],
    "hidden": lambda y, h: (y, h),
    "answer and hidden": lambda y, h: Answer([y], h),
    "mean of hidden": lambda y, h: (y, h.mean()),
}


class Network(nn.Module):
    """A layer, the steps of a plan, and a layer.

    Attributes:
        names: Of the steps that fit.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        pick, form = Pick(plan.ends), LAYOUTS[plan.layout]
        width = pick(*WIDTHS)
        self.moved = Moved(Pick([]), form, -1)
        tokens = plan.layout == "tokens"
        self.start = nn.Embedding(11, width) if tokens else nn.Linear(form.channels, width)
        forms = [form.resized(c=width)]
        steps: list[Step] = []
        self.names = []
        for name, numbers in plan.steps:
            try:
                step = Step.kinds[name](numbers, forms)
            except UnfitError:
                continue
            if isinstance(step, Again) and (
                steps[step.number].reads or isinstance(steps[step.number], Again)
            ):
                continue
            steps.append(step)
            forms.append(step.form)
            self.names.append(name)
        self.steps, form = nn.ModuleList(steps), forms[-1]
        self.end = pick("linear", "mean", "none", "norm")
        if self.end == "none" and pick(False, True, False):
            self.end = "linear"
        self.dims = tuple(form.at(a) for a in form.axes if a not in "bc")
        self.after = Moved(
            Pick([]), form.without(form.positions) if self.end == "mean" else form, -1
        )
        self.norm = nn.LayerNorm(form.channels) if self.end == "norm" else nn.Identity()
        self.head = nn.Linear(form.channels, 2)
        self.pack = PACKS[pick("tensor", "tensor", "tensor", *PACKS)]
        self.inline = pick(False, False, True)
        self.call = pick("tensor", "tensor", "tensor", "keyword", "tuple")
        self.scope = pick("all", "all", "all", "some") if steps else "all"
        self.more = nn.Linear(3, width) if self.call == "tuple" else None

    def forward(self, x: Tensor, options: Any = None) -> Any:
        x = x if isinstance(self.start, nn.Embedding) else self.moved.there(x)
        x = self.start(x)
        if self.more is not None:
            x = x + self.more(options["more"][0])
        past = [x if isinstance(self.start, nn.Embedding) else self.moved.back(x)]
        for step in self.steps:
            if isinstance(step, Again):
                past.append(self.steps[step.number](past[-1]))
            elif self.inline:
                past.append(step.forward(past[-1], *(past[n] for n in step.reads)))
            else:
                past.append(step(past[-1], *(past[n] for n in step.reads)))
        y = past[-1]
        if self.end == "none":
            return self.pack(y, y)
        if self.end == "mean" and self.dims:
            y = y.mean(self.dims)
        return self.pack(self.head(self.norm(self.after.there(y))), past[len(past) // 2])


def network(plan: Plan) -> tuple[Network, Any]:
    """The network of a plan, in double precision, and what it is called with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = Network(plan).eval()
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.data += torch.rand(tensor.shape) * (0.5 if "var" in name else 0.3)
        form = LAYOUTS[plan.layout]
        if plan.layout == "tokens":
            x = torch.randint(0, 11, form.sizes[:2])
        else:
            x = torch.randn(form.sizes, dtype=torch.float64)
        net = net.double()
        inputs = given(net, x)
        run(net, inputs)  # an old weight_norm computes its weight here
        return net, inputs


def given(net: Network, x: Tensor) -> Any:
    """What a network is called with."""
    if net.call == "keyword":
        return {"x": x, "options": None}
    if net.call == "tuple":
        return x, {"more": [torch.linspace(-1, 1, 3, dtype=torch.float64)]}
    return x


def other_inputs(net: Network, inputs: Any, plan: Plan) -> Iterator[Any]:
    """The inputs with another batch size, and another length, where the network takes them."""
    x = (
        inputs["x"]
        if isinstance(inputs, dict)
        else inputs[0]
        if isinstance(inputs, tuple)
        else inputs
    )
    for other in _other_inputs(x, plan):
        made = given(net, other)
        try:
            run(net, made)
        except Exception:
            continue
        yield made


def _other_inputs(x: Tensor, plan: Plan) -> Iterator[Tensor]:
    if plan.layout != "tc":
        yield torch.cat([x, x.flip(0)[:1]])
    if "t" in plan.layout:
        axis = (
            0 if plan.layout == "tc" else 1 if plan.layout == "tokens" else plan.layout.index("t")
        )
        yield torch.cat([x, x.flip(axis).narrow(axis, 0, 2)], axis)


def run(net: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(inputs, dict):
            return list(tensors(net(**inputs)))
        return list(tensors(net(*inputs) if isinstance(inputs, tuple) else net(inputs)))


def tensors(output: Any) -> Iterator[Tensor]:
    """Tensors in an output, wherever they are."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from tensors(item)
    elif isinstance(output, dict):
        yield from tensors(list(output.values()))
    elif hasattr(output, "__dict__"):
        yield from tensors(vars(output))


def scope(net: Network) -> Any:
    """Where channels may go: everywhere, or in every other step."""
    return "all" if net.scope == "all" else list(net.steps)[::2]


# -- the law --------------------------------------------------------------------------------------


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


# -- drawing and shrinking ------------------------------------------------------------------------


def drawn_plan(seed: int) -> Plan:
    """A random plan, without hypothesis."""
    r = random.Random(seed)
    numbers = lambda: tuple(r.randrange(60) for _ in range(NUMBERS))  # noqa: E731
    count = r.randrange(2, 11)
    return Plan(r.choice(list(LAYOUTS)), tuple((r.choice(KINDS), numbers()) for _ in range(count)),
                numbers()[:8], seed % 8)  # fmt: skip


def shrunk(plan: Plan, fails: Callable[[Plan], bool], seconds: float = 60) -> Plan:
    """A simpler plan that fails as well."""
    end, smaller = time.monotonic() + seconds, True
    while smaller:
        smaller = False
        for candidate in simpler(plan):
            if candidate != plan and time.monotonic() < end and fails(candidate):
                plan, smaller = candidate, True
                break
    return plan


def simpler(plan: Plan) -> Iterator[Plan]:
    """Plans with a step less, or a number less."""
    for n in range(len(plan.steps)):
        yield replace(plan, steps=plan.steps[:n] + plan.steps[n + 1 :])
    for n, (name, numbers) in enumerate(plan.steps):
        for less in _less(numbers):
            yield replace(plan, steps=(*plan.steps[:n], (name, less), *plan.steps[n + 1 :]))
    for less in _less(plan.ends):
        yield replace(plan, ends=less)
    yield replace(plan, seed=0)


def _less(numbers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    for n in range(len(numbers)):
        yield numbers[:n]
    for n, number in enumerate(numbers):
        for less in dict.fromkeys((0, 1, number // 2)):
            if less < number:
                yield (*numbers[:n], less, *numbers[n + 1 :])


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
        said = (re.split(r" \(|, in |'[\w.]+'", reason)[0] for reason in found.reasons.values())
        self.reasons.update(set(said))

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
