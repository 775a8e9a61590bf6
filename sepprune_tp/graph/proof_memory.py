"""Proofs of models that were proved before: a copy of a model needs no second one.

Gates, importance and pruner each build a graph, often of copies of one model. Two models are the
same here if their modules are of the same classes, under the same names, with equal attributes and
equal weights, and the example is the same; what cannot be compared by value is compared by
identity.
"""

from __future__ import annotations

import hashlib
import types
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .prove import Proof, Width

if TYPE_CHECKING:
    from .channel_graph import ChannelGraph

__all__ = ["recall", "remember", "signature"]

_MOST = 64
_DEPTH = 6
_OWN = (
    "_parameters",
    "_buffers",
    "_modules",
    "_flat_weights",
    "_flat_weight_refs",
    "training",
    "_sepprune_lineage",
)


@dataclass
class _Entry:
    proof: Proof
    axes: dict[int, int]
    ties: list[tuple[Tensor, Tensor]]
    widths: list[Width]
    held: list[Any] = field(default_factory=list)
    """What was compared by identity, kept so that no other object gets its address."""


_KNOWN: OrderedDict[Any, _Entry] = OrderedDict()


class _OpaqueError(Exception):
    """An object can be compared neither by value nor by identity."""


class _Encoder:
    """Turns a model and what belongs to it into a hashable value."""

    def __init__(self, names: Mapping[Any, str]) -> None:
        self.held: list[Any] = []
        self._names = names

    def of(self, value: Any, depth: int = 0) -> Any:
        """A value that is equal for equal values."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return (type(value).__name__, value)
        if isinstance(value, Tensor):
            return _checksum(value)
        if isinstance(value, (torch.dtype, torch.device, torch.Size)):
            return str(value)
        if type(value).__module__ == "numpy" and type(value).__name__ == "ndarray":
            return (str(value.dtype), value.shape, value.tobytes())
        if isinstance(value, nn.Module) and value in self._names:
            return ("module", self._names[value])
        if depth < _DEPTH:
            if isinstance(value, (list, tuple)):
                return (type(value).__name__, *(self.of(v, depth + 1) for v in value))
            if isinstance(value, (set, frozenset)):
                return ("set", *sorted(str(self.of(v, depth + 1)) for v in value))
            if isinstance(value, dict):
                return ("dict", *((str(k), self.of(v, depth + 1)) for k, v in value.items()))
        if isinstance(value, (type, types.BuiltinFunctionType)):
            return self._by_identity(value)
        if isinstance(value, types.MethodType):
            return (self.of(value.__func__, depth + 1), self.of(value.__self__, depth + 1))
        if isinstance(value, types.FunctionType) and depth < _DEPTH:
            cells = tuple(self.of(c.cell_contents, depth + 1) for c in value.__closure__ or ())
            given = self.of(value.__defaults__, depth + 1)
            return (self._by_identity(value.__code__), cells, given, self._globals(value))
        inside = getattr(value, "__dict__", None)
        if depth >= _DEPTH or inside is None or isinstance(value, weakref.ref):
            raise _OpaqueError
        return (self._by_identity(type(value)), self.of(dict(inside), depth + 1))

    def _by_identity(self, value: Any) -> Any:
        self.held.append(value)
        return id(value)

    def _globals(self, function: Any) -> Any:
        """The plain values among the names that a function looks up."""
        known = function.__globals__
        names = (n for n in function.__code__.co_names if n in known)
        plain = (bool, int, float, str)
        return tuple((n, known[n]) for n in names if isinstance(known[n], plain))

    def code(self, cls: type) -> Any:
        """What a class runs, and the plain values that it holds."""
        forward = getattr(cls, "forward", None)
        values = {
            k: v
            for c in cls.__mro__
            for k, v in vars(c).items()
            if isinstance(v, (int, float, str))
        }
        plain = isinstance(forward, types.FunctionType)
        return (self.of(forward) if plain else None, str(sorted(values.items(), key=str)))


def _checksum(tensor: Tensor) -> Any:
    described = (str(tensor.dtype), tuple(tensor.shape))
    if tensor.is_meta or tensor.is_sparse:
        return (*described, "no data")
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return (*described, hashlib.blake2b(data.numpy().data, digest_size=16).digest())


def signature(
    graph: ChannelGraph, names: Mapping[Any, str], inputs: Any, calls: tuple[Any, ...]
) -> tuple[Any, list[Any]]:
    """What tells a model, its example and what is to be pruned of it from others.

    Args:
        graph: A graph that was formed.
        names: Of the model's modules.
        inputs: The example.
        calls: How the model is called, and what is done with its outputs.

    Returns:
        A hashable value, or None where something can be compared neither by value nor by
        identity; and the objects that it knows by identity.
    """
    encoder = _Encoder(names)
    try:
        return _parts(encoder, graph, inputs, calls), encoder.held
    except (_OpaqueError, ValueError, RuntimeError, RecursionError):
        return None, []


def _parts(encoder: _Encoder, graph: ChannelGraph, inputs: Any, calls: tuple[Any, ...]) -> Any:
    parts: list[Any] = [encoder.of(inputs), encoder.of(calls)]
    for name, module in graph.model.named_modules():
        own = {
            k: v
            for k, v in module.__dict__.items()
            if k not in _OWN and not (isinstance(v, (dict, list, tuple)) and not v)
        }
        cls = type(module)
        parts.append((name, encoder._by_identity(cls), encoder.code(cls), encoder.of(own)))
    state = [*graph.model.named_parameters(), *graph.model.named_buffers()]
    parts.append(tuple((name, _checksum(tensor)) for name, tensor in state))
    sets = (tuple(s.root.labels.tolist()) for _, s in graph.offered())
    parts.append(tuple(sets))
    return tuple(parts)


def recall(key: Any, graph: ChannelGraph) -> Proof | None:
    """The proof of the same model, its hypotheses taken over by a graph; None if there is none."""
    entry = None if key is None else _KNOWN.get(key)
    if entry is None:
        return None
    _KNOWN.move_to_end(key)
    graph.axes, graph.ties = dict(entry.axes), list(entry.ties)
    graph.widths = list(entry.widths)
    if graph.axes or graph.ties:
        graph.form()
    return entry.proof


def remember(key: Any, held: list[Any], graph: ChannelGraph, proof: Proof) -> None:
    """Keep what was found."""
    if key is None:
        return
    _KNOWN[key] = _Entry(proof, dict(graph.axes), list(graph.ties), list(graph.widths), held)
    while len(_KNOWN) > _MOST:
        _KNOWN.popitem(last=False)
