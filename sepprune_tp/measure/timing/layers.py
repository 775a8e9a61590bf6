"""Time of one layer for any number of channels: cut, run and measured at a few widths."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import LayerRule, rule_of
from .cache import TimeCache

__all__ = ["ALIGNED", "TimedLayer", "Timer", "knots", "timed_layers"]

ALIGNED = 8
"""Widths that are multiples of this are measured apart from the others: kernels like them."""
_RUNS, _LEAST_SECONDS = 5, 2e-3
_SLOW = 2e-3  # seconds of a call that is long enough for two runs to tell

Timer = Callable[[nn.Module, Tensor], float]
"""Seconds of one call of a layer on an input."""


@dataclass
class TimedLayer:
    """A layer that a model calls with one tensor.

    Attributes:
        module: The layer, dense.
        rule: Its rule.
        example: What it is called with.
        calls: How often in one forward pass.
    """

    module: nn.Module
    rule: LayerRule
    example: Tensor
    calls: int = 1

    @property
    def through(self) -> bool:
        """Whether inputs and outputs are the same channels."""
        return self.rule.relation == "through"

    def key(self) -> str:
        """What its time depends on, widths aside."""
        cls, x = type(self.module), self.example
        order = _order(x)
        config = self.module.extra_repr()
        return f"{cls.__module__}.{cls.__qualname__}({config}) {tuple(x.shape)} {order} {x.dtype}"

    def seconds(self, n_in: int, n_out: int, timer: Timer, cache: TimeCache) -> float:
        """Time of one call with some channels, measured or known."""
        key = f"{self.key()} {n_in} {n_out}"
        found = cache.get(key)
        if found is None:
            found = timer(self._cut(n_in, n_out), self._input(n_in))
            cache.put(key, found)
        return found

    def _cut(self, n_in: int, n_out: int) -> nn.Module:
        layer = copy.deepcopy(self.module).eval().requires_grad_(False)
        pruner, rule = self.rule.pruner(layer), self.rule
        dense_out, dense_in = rule.n_out(layer), rule.n_in(layer)
        if n_out < dense_out:
            pruner.prune_out_channels(layer, _removed(n_out, dense_out, rule.ties(layer)[1]))
        if n_in < dense_in and not self.through:
            pruner.prune_in_channels(layer, _removed(n_in, dense_in, rule.ties(layer)[0]))
        return layer

    def _input(self, n_in: int) -> Tensor:
        x = self.example
        axis = self.rule.axis(self.module, x)
        order = _order(x)
        sizes = list(x.shape)
        sizes[axis] = sizes[axis] * n_in // self.rule.n_in(self.module)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn([sizes[a] for a in order], generator=generator, dtype=torch.float32)
        place = [order.index(a) for a in range(x.dim())]
        return noise.to(x.device, x.dtype).permute(place)


def _order(x: Tensor) -> list[int]:
    """Axes from the outermost to the innermost in memory."""
    strides = x.stride()
    return sorted(range(x.dim()), key=lambda axis: -strides[axis])


def _removed(keep: int, dense: int, parts: int) -> list[int]:
    """Which of ``dense`` channels go so that ``keep`` stay, as many of each of equal parts."""
    size = dense // parts
    return [p * size + i for p in range(parts) for i in range(keep // parts, size)]


def knots(width: int, parts: int = 1, fine: bool = False) -> tuple[list[int], list[int]]:
    """Widths to measure: multiples of 8, and others, each up to the full width.

    Args:
        width: Channels of the dense layer.
        parts: Widths are multiples of this.
        fine: Twice as many of them.

    Returns:
        As many of either kind, in rising order; small layers have only one kind.
    """
    eighths = range(1, 8) if fine else (1, 2, 4, 6)
    shares = [n / 8 for n in eighths]
    step = ALIGNED * parts
    even = [max(step, round(width * s / step) * step) for s in shares]
    if width < 4 * step:
        plain = [max(parts, round(width * s / parts) * parts) for s in shares]
        return [*plain, width], [*plain, width]
    odd = [n + parts for n in (even[:-1] if fine else even[:1] + even[2:])] + [width - parts]
    return [*even, width], [*odd, width]


def timed_layers(
    model: nn.Module, run: Callable[[], Any], wanted: set[nn.Module]
) -> list[TimedLayer]:
    """The layers of a model that have a rule and are called with one tensor.

    Args:
        model: The model.
        run: Runs it once.
        wanted: Only these modules.

    Returns:
        In the order of their first call.
    """
    found: dict[nn.Module, TimedLayer] = {}
    odd: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rule = rule_of(module)
        single = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        if rule is None or not single:
            odd.add(module)
        elif module in found:
            found[module].calls += 1
        else:
            found[module] = TimedLayer(module, rule, args[0])

    chosen = [module for module in model.modules() if module in wanted]
    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in chosen]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for module, layer in found.items() if module not in odd]


def time_call(module: nn.Module, x: Tensor) -> float:
    """Seconds of one call: the shortest of some, for noise only adds."""
    best, spent, runs = float("inf"), 0.0, 0
    with torch.inference_mode():
        module(x)
        while spent < _LEAST_SECONDS or runs < (_RUNS if best < _SLOW else 2):
            began = time.perf_counter()
            module(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            seconds = time.perf_counter() - began
            best, spent, runs = min(best, seconds), spent + seconds, runs + 1
    return best
