"""Building a model for the tensors of a file, no larger than these give reason to.

The arguments of a model are a few numbers that anyone can write into a file. What they ask for is
compared with the tensors that are there, before and while a constructor makes its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.extent import is_bounded, short

__all__ = ["Room"]

_USUAL = 8192
"""A width, depth or length that needs no reason; STFTs of 4096 are long."""
_FASTEST = 1 << 20
"""A sample rate in Hz that no model has."""
_SPARE = 1 << 26
"""Bytes that need no reason."""
_DENSER = 64
"""How many times larger a model may have been before it was pruned."""
_FACTORIES = tuple(
    getattr(torch, name)
    for name in (
        *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "arange"),
        *("linspace", "logspace", "hann_window", "hamming_window", "blackman_window"),
        *("kaiser_window", "bartlett_window", "empty_strided", "randperm"),
    )
)


class Room:
    """What the tensors of a file give reason to build.

    Args:
        tensors: All of the file that belong to the model.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        held = list(tensors)
        self._names = len(held)
        self._bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
        filled = [size for tensor in held if tensor.numel() for size in tensor.shape]
        self._widest = max(_USUAL, 2 * max(filled, default=0))

    def check(self, args: Mapping[str, Any], where: str) -> None:
        """Refuse arguments that no model of these tensors has.

        Args:
            args: Of a constructor.
            where: The file, for messages.

        Raises:
            CheckpointError: If one is a number that is not finite or far larger than the tensors, a
                name that Python keeps for itself, or data without end.
        """
        if not is_bounded(args, 10_000, 10):
            raise CheckpointError(f"{where} gives its model arguments without end; {_ADVICE}")
        for key, value in args.items():
            most = _FASTEST if key == "sample_rate" else self._widest
            for one in _plain_values(value):
                if not _usual(one, most):
                    raise CheckpointError(
                        f"{where} gives its model the argument {short(key, 40)}={short(one, 40)}, "
                        f"for which its tensors give no reason; {_ADVICE}"
                    )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, a constructor that makes more than there is room for ends with a ValueError."""
        limits = {
            "tensors": 3 * self._names + 64,
            "modules": 64 * self._names + 1000,
            "bytes": _DENSER * self._bytes + _SPARE,
        }
        thread = threading.get_ident()

        def spend(kind: str, count: int) -> None:
            if threading.get_ident() == thread:
                limits[kind] -= count
                if limits[kind] < 0:
                    raise ValueError(f"it makes more {kind} than the file's tensors account for")

        def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
            spend("tensors", value is not None)

        def part(module: nn.Module, name: str, value: nn.Module | None) -> None:
            spend("modules", 1)

        with ExitStack() as stack:
            stack.enter_context(hooks.register_module_parameter_registration_hook(tensor))
            stack.enter_context(hooks.register_module_buffer_registration_hook(tensor))
            stack.enter_context(hooks.register_module_module_registration_hook(part))
            stack.enter_context(_Weighed(lambda count: spend("bytes", count)))
            yield


_ADVICE = (
    "the file was damaged, or made to exhaust whoever reads it. Get it from where it was made, or "
    "build the model as it was before pruning and pass it as model=."
)


class _Weighed(TorchFunctionMode):
    """Tells how many bytes a tensor will have before it is made."""

    def __init__(self, spend: Any) -> None:
        super().__init__()
        self._spend = spend

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FACTORIES:
            meta = func(*args, **{**given, "device": "meta"})
            self._spend(meta.numel() * meta.element_size())
        return func(*args, **given)


def _usual(value: Any, most: int) -> bool:
    if isinstance(value, str):
        return len(value) <= 200 and not value.startswith("_")
    if isinstance(value, (int, float)):
        return -most <= value <= most  # neither NaN nor infinity is
    return value is None


def _plain_values(value: Any) -> Iterator[Any]:
    """The numbers and texts in plain data; what is neither is given as it is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (key, *_plain_values(inner))
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from _plain_values(inner)
    else:
        yield value
