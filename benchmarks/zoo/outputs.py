"""Tensors in whatever a network returns, how far two outputs are apart, and exact precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["InDouble", "call", "difference", "double", "floats", "larger", "tensors"]


def call(model: nn.Module, example: Any) -> Any:
    """Run a network on an example: a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def tensors(held: Any, seen: frozenset[int] = frozenset()) -> Iterator[Tensor]:
    """Every tensor in a value: in containers, dataclasses and attributes of other objects.

    Args:
        held: Any value.
        seen: Identities of the objects around it, which are not entered again.

    Yields:
        The tensors, in order.
    """
    if isinstance(held, Tensor):
        yield held
        return
    if id(held) in seen or isinstance(held, str | bytes | int | float | type | nn.Module):
        return
    around = seen | {id(held)}
    if isinstance(held, Mapping):
        parts = list(held.values())
    elif isinstance(held, list | tuple | set):
        parts = list(held)
    elif dataclasses.is_dataclass(held):
        parts = [getattr(held, part.name, None) for part in dataclasses.fields(held)]
    else:
        parts = list(getattr(held, "__dict__", {}).values())
    for part in parts:
        yield from tensors(part, around)


def floats(held: Any) -> list[Tensor]:
    """The tensors of a value that hold real or complex numbers with a fraction."""
    return [t for t in tensors(held) if t.is_floating_point() or t.is_complex()]


def difference(one: Any, other: Any) -> float:
    """Largest difference of two outputs, each tensor relative to the largest value of the second.

    Returns:
        Infinity if they hold other tensors, or values that are not numbers.
    """
    first, second = list(tensors(one)), list(tensors(other))
    if [t.shape for t in first] != [t.shape for t in second]:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        if not b.numel():
            continue
        wide = torch.complex128 if b.is_complex() else torch.float64
        scale = float(b.to(wide).abs().max())
        apart = float((a.to(wide) - b.to(wide)).abs().max()) / (scale or 1.0)
        worst = max(worst, apart if apart == apart else float("inf"))
    return worst


def double(held: Any) -> Any:
    """The same value with floats in float64 and complex numbers to match, containers rebuilt."""
    if isinstance(held, Tensor):
        if held.is_floating_point():
            return held.double()
        return held.to(torch.complex128) if held.is_complex() else held
    if isinstance(held, dict):
        return {key: double(value) for key, value in held.items()}
    if isinstance(held, list | tuple):
        return type(held)(double(value) for value in held)
    return held


def larger(held: Any) -> Any:
    """The same example with its first item once more at the end of the batch, containers rebuilt.

    Raises:
        TypeError: If it holds something other than tensors.
    """
    if isinstance(held, Tensor):
        return torch.cat([held, held[:1].flip(-1)])
    if isinstance(held, dict):
        return {key: larger(value) for key, value in held.items()}
    if isinstance(held, tuple):
        return tuple(larger(value) for value in held)
    raise TypeError(f"a {type(held).__name__} has no batch")


class InDouble(TorchFunctionMode):
    """Casts to float32 become casts to float64, as in norms and rotations of language models.

    Without it, a network in float64 would compute parts of its output in float32, and what is
    compared would be rounded to that.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        raised = {key: _raised(value) for key, value in (kwargs or {}).items()}
        return func(*(_raised(value) for value in args), **raised)


def _raised(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    return torch.complex128 if value is torch.complex64 else value
