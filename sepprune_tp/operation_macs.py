"""Multiply-accumulates of operations outside of layers: products, convolutions, attention."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .graph.calls import Key, key_of
from .graph.schema import arguments

__all__ = ["OperationCounter", "macs_of", "weight_of"]

aten = torch.ops.aten
_PRODUCTS = {
    aten.mm: ("self", "mat2"),
    aten.bmm: ("self", "mat2"),
    aten.addmm: ("mat1", "mat2"),
    aten.baddbmm: ("batch1", "batch2"),
    aten.mv: ("self", "vec"),
    aten.dot: ("self", "tensor"),
    aten.linear: ("input", "weight"),
}
_CONVOLUTIONS = (aten.convolution, aten._convolution)
_ATTENTION = tuple(
    getattr(aten, name)
    for name in (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
    if hasattr(aten, name)
)


def macs_of(operation: Any, named: Mapping[str, Any], output: Any) -> list[int]:
    """MACs of one operation: one number, two for attention (scores, context), none for others.

    Args:
        operation: An operation (overload) of ATen.
        named: Its arguments by name.
        output: What it returned.
    """
    packet = operation.overloadpacket
    if packet in _PRODUCTS:
        left = named[_PRODUCTS[packet][0]]
        if packet is aten.dot:
            return [left.numel()]
        return [output.numel() * left.shape[-1]]
    if packet in _CONVOLUTIONS:
        weight, turned = named["weight"], bool(named["transposed"])
        kernel = math.prod(weight.shape[1:])  # inputs of a group, or outputs if transposed
        return [(named["input"] if turned else output).numel() * kernel]
    if packet in _ATTENTION:
        query, key, value = (named[name] for name in ("query", "key", "value"))
        pairs = math.prod(query.shape[:-1]) * key.shape[-2]
        return [pairs * query.shape[-1], pairs * value.shape[-1]]
    return []


def weight_of(operation: Any, named: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a product or convolution that may be its weight."""
    packet = operation.overloadpacket
    if packet in _PRODUCTS:
        first, second = _PRODUCTS[packet]
        return [named[second], named[first]]
    return [named["weight"]] if packet in _CONVOLUTIONS else []


class OperationCounter:
    """Counts the operations of one run outside of layers whose cost is known.

    Attributes:
        weights: MACs by name of the parameter or buffer that is multiplied with.
        products: MACs of products of activations (or computed weights), by module.
        places: MACs of all of them, in order, by module and place in its code.
    """

    def __init__(self, model: nn.Module) -> None:
        state = [*model.named_parameters(), *model.named_buffers()]
        self._names = {tensor.untyped_storage()._cdata: name for name, tensor in state}
        self._model = model
        self.weights: Counter[str] = Counter()
        self.products: Counter[nn.Module] = Counter()
        self.places: dict[tuple[nn.Module, Key], list[int]] = {}
        self.running: list[nn.Module] = []
        self.inside = 0
        self._key: Key = ()
        self._function = ""

    def modes(self) -> tuple[TorchFunctionMode, TorchDispatchMode]:
        """What has to be on while the model runs."""
        return _Places(self), _Operations(self)

    def count(self, operation: Any, named: Mapping[str, Any], output: Any) -> None:
        """Note one operation."""
        macs = macs_of(operation, named, output)
        if operation.overloadpacket is aten.mul and self._function == "einsum":
            macs = [output.numel()]  # a sum over an axis of one element
        if not macs:
            return
        module = self.running[-1] if self.running else self._model
        self.places.setdefault((module, self._key), []).extend(macs)
        for weight in weight_of(operation, named):
            name = self._names.get(weight.untyped_storage()._cdata)
            if name is not None:
                self.weights[name] += sum(macs)
                return
        self.products[module] += sum(macs)

    def within(self, key: Key, name: str, call: Callable[[], Any]) -> Any:
        """Run a function of the model's code."""
        before = self._key, self._function
        self._key, self._function = key, name
        try:
            return call()
        finally:
            self._key, self._function = before


class _Places(TorchFunctionMode):
    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._counter.inside:
            return func(*args, **kwargs)
        key = key_of(sys._getframe(1))
        name = getattr(func, "__name__", "")
        return self._counter.within(key, name, lambda: func(*args, **kwargs))


class _Operations(TorchDispatchMode):
    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self._counter = counter

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of the compiler; we compile nothing."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._counter.inside:
            self._counter.count(func, arguments(func, args, kwargs), output)
        return output
