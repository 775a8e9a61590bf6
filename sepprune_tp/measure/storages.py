"""Follow the storages of tensors through one forward pass, from birth to death.

Where possible the model runs on fake tensors (``torch._subclasses.FakeTensorMode``): shapes without
values, so that 16 s of audio cost as little as one. A model that looks at values (``.item()`` of an
activation) runs for real.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .._modes import eval_mode
from .._unwrap import eagerly, unwrapped
from ..errors import InputError

__all__ = ["StorageTracker", "follow_storages", "key_of"]

_OFTEN = 8  # storages looked at for each operation, on average, to find the dead


class StorageTracker(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    Attributes:
        peak: Most bytes that lived at the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run = _run
        self.reset()

    def reset(self) -> None:
        """Forget everything, to start over."""
        self.peak = self._now = self._since = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._held: dict[int, StorageWeakRef] = {}

    def hold(self, tensor: Tensor) -> None:
        """Leave out a storage that is a weight or a buffer."""
        reference = StorageWeakRef(tensor.untyped_storage())
        self._held[reference.cdata] = reference

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in a storage that :meth:`hold` was called with."""
        return key_of(tensor) in self._held

    def begin(self, inputs: list[Tensor]) -> None:
        """Count the inputs, before the first operation."""
        self._update(inputs)

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, and count what it made."""
        output = self.run(function, args, kwargs or {})
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self.made(function, [*args, *(kwargs or {}).values()], made)
        self._update(made)
        return output

    def made(self, function: Any, args: list[Any], outputs: list[Tensor]) -> None:
        """Called with every operation, before what it made is counted; here it does nothing."""

    def born(self, key: int, size: int) -> None:
        """Called with each new storage and its bytes; here it does nothing."""

    def died(self, key: int) -> None:
        """Called with each storage that is gone; here it does nothing."""

    def counted(self) -> None:
        """Called when exactly those storages are counted that live; here it does nothing."""

    def _update(self, tensors: list[Tensor]) -> None:
        fresh: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in tensors:
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self._live and reference.cdata not in self._held:
                    fresh[reference.cdata] = (reference, storage.nbytes())
        more = sum(size for _, size in fresh.values())
        self._since += 1
        # without looking for the dead, _now is too high by at most what died since
        if self._now + more > self.peak or _OFTEN * self._since > len(self._live):
            self._bury()
        for key, (_, size) in fresh.items():
            self.born(key, size)
        self._live.update(fresh)
        self._now += more
        self.peak = max(self.peak, self._now)
        if self._since == 0:
            self.counted()

    def _bury(self) -> None:
        for key in [key for key, (reference, _) in self._live.items() if reference.expired()]:
            self._now -= self._live.pop(key)[1]
            self.died(key)
        self._since = 0


def follow_storages(
    model: nn.Module,
    example_inputs: Any,
    tracker: StorageTracker,
    *,
    fake: bool | None = None,
    prepare: Callable[[nn.Module], None] = lambda model: None,
) -> str:
    """Run a model once under a tracker.

    Args:
        model: Any model, or a wrapper around it.
        example_inputs: What it is called with.
        tracker: Follows the storages.
        fake: Whether to try fake tensors; None: unless it has layers that run step by step.
        prepare: Called with the model that runs (a copy with fake weights, or the model itself).

    Returns:
        ``fake`` or ``real``.

    Raises:
        InputError: If the model cannot run on the example input.
    """
    model = unwrapped(model)
    if _cheaper_fake(model) if fake is None else fake:
        try:
            _run_fake(model, example_inputs, tracker, prepare)
            return "fake"
        except Exception:  # it may look at values; whatever else is wrong shows in the real run
            tracker.reset()
    try:
        _run_once(model, example_inputs, tracker, prepare)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot run on the example input "
            f"({type(error).__name__}: {error}). Give what you call the model with, on its device."
        ) from error
    return "real"


def _run_once(
    model: nn.Module,
    inputs: Any,
    tracker: StorageTracker,
    prepare: Callable[[nn.Module], None],
) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        tracker.hold(tensor)
    prepare(model)
    tracker.begin([leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)])
    with _plain(model), tracker:
        if isinstance(inputs, Mapping):
            model(**inputs)
        elif isinstance(inputs, (tuple, list)):
            model(*inputs)
        else:
            model(inputs)


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    with eagerly(), eval_mode(model), torch.no_grad():
        yield


def _cheaper_fake(model: nn.Module) -> bool:
    """False with a GRU or plain RNN: thousands of small operations, each slower when fake."""
    return not any(isinstance(module, (nn.GRU, nn.RNN)) for module in model.modules())


def _run_fake(
    model: nn.Module,
    example_inputs: Any,
    tracker: StorageTracker,
    prepare: Callable[[nn.Module], None],
) -> None:
    """Run a copy whose parameters and buffers have shapes but no values."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

    def run(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation; one on constants alone is computed, for a model may look at them."""
        if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, dict(kwargs)))):
            return function(*args, **kwargs)
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(mode.from_tensor(parameter.detach()), False)
    for buffer in model.buffers():
        memo[id(buffer)] = mode.from_tensor(buffer)
    double = copy.deepcopy(model, memo)
    inputs = tree_map_only(Tensor, mode.from_tensor, example_inputs)
    tracker.run = run
    try:
        with mode:
            _run_once(double, inputs, tracker, prepare)
    finally:
        tracker.run = _run


def _run(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return function(*args, **kwargs)


def key_of(tensor: Tensor) -> int:
    """What tells storages apart, as long as they live."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)
