"""Try what could stand in for the modules of a model on what they are really given."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .candidates import Candidates

__all__ = ["Site", "relative_difference", "tolerance", "try_out"]

_ROUNDS = 5


@dataclass
class Site:
    """A module and what could stand in for it.

    Attributes:
        name: Dotted name in the model.
        module: The module.
        candidates: What to try, each with what was done.
        differences: For each candidate, the largest difference by the largest value, over all calls
            of all inputs; infinity if it failed.
        seconds: Time of the module, then of each candidate, over the calls of one pass.
        calls: How often the module was called.
    """

    name: str
    module: nn.Module
    candidates: Candidates
    differences: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        """Start from nothing seen."""
        self.differences = [0.0] * len(self.candidates)
        self.seconds = [0.0] * (1 + len(self.candidates))


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference, by the largest value, that rounding explains in one module."""
    return 64 * torch.finfo(dtype).eps


def try_out(
    model: nn.Module,
    sites: list[Site],
    run: Callable[[], Any],
    clock: Callable[[], float] | None = None,
) -> None:
    """Run a model once and every candidate beside its module, on the same input.

    Args:
        model: The model.
        sites: What to try; differences, times and calls are added to them.
        run: Runs the model on an input.
        clock: Seconds now; None takes no times.
    """
    trials = [_Trial(site, clock) for site in sites]
    busy = _Busy()
    handles = []
    for trial in trials:
        trial.busy = busy
        handles.append(trial.site.module.register_forward_pre_hook(trial.before, with_kwargs=True))
        handles.append(trial.site.module.register_forward_hook(trial.after, with_kwargs=True))
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()


class _Busy:
    """Whether a candidate or its module is being run for comparison."""

    on = False


class _Trial:
    """The hooks of one site."""

    def __init__(self, site: Site, clock: Callable[[], float] | None) -> None:
        self.site, self.clock = site, clock
        self.busy = _Busy()
        self.given: list[Any] = []

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the module is given, which it may write over."""
        if not self.busy.on:
            self.given.append(_cloned((args, kwargs)))

    def after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Compare every candidate with what the module gave."""
        if self.busy.on:
            return
        given = self.given.pop()
        self.site.calls += 1
        self.busy.on = True
        try:
            for index, (_, candidate) in enumerate(self.site.candidates):
                difference = _difference_of(candidate, given, output)
                worst = max(self.site.differences[index], difference)
                self.site.differences[index] = worst
            if self.clock is not None:
                self._time(module, given, self.clock)
        finally:
            self.busy.on = False

    def _time(self, module: nn.Module, given: Any, clock: Callable[[], float]) -> None:
        """Time module and candidates in turns; the shortest counts, for noise only adds."""
        modules = [module, *(candidate for _, candidate in self.site.candidates)]
        best = [float("inf")] * len(modules)
        for _ in range(_ROUNDS):
            for index, one in enumerate(modules):
                if index and self.site.differences[index - 1] == float("inf"):
                    continue
                args, kwargs = _cloned(given)
                began = clock()
                one.forward(*args, **kwargs)
                best[index] = min(best[index], clock() - began)
        self.site.seconds = [a + b for a, b in zip(self.site.seconds, best, strict=True)]


def _difference_of(candidate: nn.Module, given: Any, output: Any) -> float:
    args, kwargs = _cloned(given)
    try:
        return relative_difference(candidate(*args, **kwargs), output)
    except Exception:  # whatever it cannot do, the module stays
        return float("inf")


def relative_difference(found: Any, expected: Any) -> float:
    """Largest difference between two outputs by the largest value of the second.

    Args:
        found: A tensor, or tuples, lists and dicts of them.
        expected: The same.

    Returns:
        The share; infinity if shapes, types or structure differ.
    """
    if isinstance(expected, Tensor):
        alike = isinstance(found, Tensor) and found.shape == expected.shape
        if not alike or found.dtype != expected.dtype:
            return float("inf")
        if not expected.numel():
            return 0.0
        if not expected.is_floating_point() and not expected.is_complex():
            return 0.0 if torch.equal(found, expected) else float("inf")
        largest = float(expected.abs().max())
        difference = float((found - expected).abs().max())
        if difference == 0:
            return 0.0
        return difference / largest if largest > 0 and difference == difference else float("inf")
    if isinstance(expected, (tuple, list)):
        if type(found) is not type(expected) or len(found) != len(expected):
            return float("inf")
        pairs = zip(found, expected, strict=True)
        return max((relative_difference(a, b) for a, b in pairs), default=0.0)
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return float("inf")
        return max((relative_difference(found[k], v) for k, v in expected.items()), default=0.0)
    return 0.0 if found is expected or found == expected else float("inf")


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()  # keeps the strides, on which speed depends
    if isinstance(value, (tuple, list)):
        return type(value)(_cloned(v) for v in value)
    if isinstance(value, dict):
        return {k: _cloned(v) for k, v in value.items()}
    return copy.copy(value)


def now() -> float:
    """Seconds on a clock that only goes forward."""
    return time.perf_counter()
