"""Operations that copy elements to other places: applied to the labels as to the data.

Indexing is checked for positions along channels, which would mean others once some are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .labels import constant_along, unite_pairs, varying_dims
from .tracing import Tracing

__all__ = [
    "bare_rearranged",
    "embed",
    "fold",
    "join_tensors",
    "pack",
    "pad",
    "put",
    "rearrange",
    "same",
    "scatter",
    "select_entries",
    "tensors_in",
    "unpack",
    "write",
]

aten = torch.ops.aten


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    found: list[Tensor] = []
    tree_map(lambda v: found.append(v) if isinstance(v, Tensor) else None, values)
    return found


def same(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Output elements are the first input's, in the same places (clone, to, dropout...)."""
    source = next(iter(named.values()))
    labels = tracer.store.get(source)
    for out in tensors_in(output):
        if labels is not None and out.shape == labels.shape:
            tracer.store.set(out, labels)
        elif labels is None and out is not source and out.shape == source.shape:
            numbers = tracer.bare.numbers(source)
            if numbers is not None:
                tracer.bare.set(out, numbers)


def write(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Elements are overwritten by those of another tensor."""
    target, source = named["self"], named["src"]
    labels = tracer.store.get(source)
    if labels is None:
        numbers = tracer.bare.numbers(source)
        if numbers is not None and not tracer.bare.is_stored(target):
            tracer.bare.set(target, numbers.expand(target.shape))
    if labels is not None or tracer.store.get(target) is not None:
        tracer.store.set(target, 0 if labels is None else labels.expand(target.shape))


def rearrange(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Apply the operation to the labels as it was applied to the data."""
    if operation.overloadpacket in (aten.roll, aten.repeat, aten.tril, aten.triu):
        source = tracer.store.get(named["self"])
        along = set() if source is None else set(varying_dims(source))
        dims = named.get("dims")
        if source is not None and dims:
            along &= {d % source.dim() for d in dims}
        if source is not None and along:
            tracer.suspect([source], f"channels are moved by '{operation.overloadpacket.__name__}'")
    _moved(tracer.store.get, tracer.store.set, operation, named, output)
    bare_rearranged(tracer, operation, named, output)


def bare_rearranged(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """The same for numbers of bare tensors, where no activation takes part."""
    if all(tracer.store.get(t) is None for t in tensors_in(named)):
        _moved(tracer.bare.numbers, tracer.bare.set, operation, named, output)


_DATA = ("self", "input", "tensors", "src", "source", "values")
"""Arguments that hold what is moved; other tensors say where to."""


def _moved(get: Any, put_: Any, operation: Any, named: dict[str, Any], output: Any) -> None:
    data = {name: named[name] for name in _DATA if name in named}
    if all(get(t) is None for t in tensors_in(data)):
        return

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = get(value)
        return torch.zeros(value.shape, dtype=torch.float64) if found is None else found.double()

    def index(value: Any) -> Any:
        return value.cpu() if isinstance(value, Tensor) else value

    shadows = {k: tree_map(shadow if k in data else index, v) for k, v in named.items()}
    positional = [a.name for a in operation._schema.arguments if not a.kwarg_only]
    kwargs = {k: v for k, v in shadows.items() if k not in positional and v is not None}
    moved = operation(*(shadows[name] for name in positional), **kwargs)
    for out, found in zip(tensors_in(output), tensors_in(moved), strict=True):
        put_(out, found)


def join_tensors(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Concatenation and stacking; a bare parameter among labelled tensors is cut with them."""
    tensors, dim = named["tensors"], named["dim"]
    found = [tracer.store.get(t) if t.numel() else None for t in tensors]
    known = [m for m in found if m is not None]
    if not known:
        bare_rearranged(tracer, operation, named, output)
        return
    stacks = operation.overloadpacket is aten.stack
    row: Tensor | None = known[0] if stacks else None
    if not stacks and constant_along(known[0], dim):
        row = known[0].narrow(dim, 0, 1)
    _same_widths(tracer, known, None if stacks else dim)
    moved = []
    for tensor, labels in zip(tensors, found, strict=True):
        if labels is None and row is not None and tensor.numel() and tracer.bare.known(tensor):
            labels = row.expand(tensor.shape)
            tracer.met(tensor, labels)
        moved.append(labels if labels is not None else known[0].new_zeros(tensor.shape))
    tracer.store.set(output, operation(moved, dim))


def _same_widths(tracer: Tracing, known: list[Tensor], dim: int | None) -> None:
    """Unite what lies along the axes that joined tensors must have in common."""
    rows = []
    for labels in known:
        if dim is not None:
            if not constant_along(labels, dim):
                continue
            labels = labels.amax(dim, keepdim=True)
        if varying_dims(labels):
            rows.append(labels)
    for row in rows[1:]:
        if row.shape == rows[0].shape and row.data_ptr() != rows[0].data_ptr():
            unite_pairs(tracer.channels, rows[0], row, row.shape)


def put(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """``x[index] = values``: fine along other axes, not along channels."""
    target, indices, values = named["self"], named["indices"], named["values"]
    labels, written = tracer.store.get(target), tracer.store.get(values)
    if labels is None and written is None:
        return
    if labels is None:
        labels = torch.zeros(target.shape, dtype=torch.int32)
    if any(not constant_along(labels, d) for d in _indexed_dims(indices)):
        tracer.protect([labels], "channels are picked by fixed positions")
    if written is None:
        written = torch.zeros(values.shape, dtype=torch.int32)
    before, places = (
        labels.to(torch.int32).clone(),
        [None if i is None else i.cpu() for i in indices],
    )
    labels = aten.index_put(before, places, written.to(torch.int32))
    tracer.store.set(output, torch.where(labels != 0, labels, before))


def pad(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Padding belongs to no channel unless it lies on an axis where the channel is one."""
    kept = {k: 0 if k == "value" else v for k, v in named.items()}
    labels, added = tracer.store.get(named["self"]), named.get("pad", named.get("padding"))
    if labels is not None and added:
        padded = {labels.dim() - 1 - i // 2 for i, n in enumerate(added) if n}
        if padded & set(varying_dims(labels)):
            tracer.suspect([labels], "an axis with channels is padded")
    rearrange(tracer, operation, kept, output)


def select_entries(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Indexing with fixed positions: fine along other axes, not along channels."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        bare_rearranged(tracer, operation, named, output)
        return
    if "dim" in named:
        dims = [named["dim"] % max(1, labels.dim())]
    else:
        dims = _indexed_dims(named["indices"])
    if any(not constant_along(labels, d) for d in dims):
        tracer.protect([labels], "channels are picked by fixed positions")
    rearrange(tracer, operation, named, output)


def scatter(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """``scatter_add``, ``index_add``...: fine along other axes, not along channels."""
    source = named.get("src", named.get("source", named.get("value")))
    tensors = [t for t in (named["self"], source) if isinstance(t, Tensor)]
    known = [m for m in map(tracer.store.get, tensors) if m is not None]
    if not known:
        return
    dim = named["dim"] % max(1, output.dim())
    if any(not constant_along(m, dim) for m in known):
        tracer.protect(known, "channels are picked by fixed positions")
    rows = [m.amax(dim, keepdim=True) for m in known]
    shape = list(output.shape)
    shape[dim] = 1
    rows = [row for row in rows if list(row.shape) == shape]
    if len(rows) < len(known):
        tracer.protect(known, "it is spread over a tensor of another shape")
        return
    for row in rows[1:]:
        for one, other in zip(rows[0].flatten().tolist(), row.flatten().tolist(), strict=True):
            tracer.channels.unite(one, other)
    tracer.store.set(output, rows[0].expand(output.shape))


def embed(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Rows of a bare table: its columns are the channels."""
    if tracer.looked_up(named["weight"], output):
        return
    numbers = tracer.bare.numbers(named["weight"])
    if numbers is not None:
        row = numbers[:1].view((1,) * (output.dim() - 1) + (-1,))
        tracer.bare.set(output, row.expand(output.shape))


def pack(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Sequences of several lengths packed into one (sum of lengths, C)."""
    labels = tracer.store.get(named["input"])
    if labels is None:
        return
    if not (constant_along(labels, 0) and constant_along(labels, 1)):
        tracer.protect([labels], "channels lie along the positions of packed sequences")
    row = labels.amax((0, 1)).view(1, *output[0].shape[1:])
    tracer.store.set(output[0], row.expand(output[0].shape))


def unpack(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """The reverse."""
    labels = tracer.store.get(named["data"])
    if labels is None:
        return
    if not constant_along(labels, 0):
        tracer.protect([labels], "channels lie along the positions of packed sequences")
    tracer.store.set(output[0], labels.amax(0).expand(output[0].shape))


def _indexed_dims(indices: Sequence[Tensor | None]) -> list[int]:
    return [dim for dim, index in enumerate(indices) if index is not None]


def fold(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """Overlap-add: what lands on one element must be one channel."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        return
    rest = {k: v for k, v in named.items() if k != "self"}
    data = labels.double()
    count = operation((data > 0).double(), **rest)
    total = operation(data, **rest)
    squares = operation(data.square(), **rest)
    mean = total / count.clamp(min=1)
    if not torch.allclose(squares, mean.square() * count, rtol=1e-9, atol=1e-6):
        tracer.protect([labels], "different channels are added up by an overlap-add")
    tracer.store.set(output, mean.round())
