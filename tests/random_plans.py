"""Plans of random networks: plain data, drawn from numbers, built into a network, and shrunk.

A plan is a layout, and for each step its name and a few small numbers. Any plan is a network: steps
that do not fit the tensor they would get are left out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from random_steps import WIDTHS, Again, Form, Moved, Pick, Step, UnfitError
from torch import Tensor, nn

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
