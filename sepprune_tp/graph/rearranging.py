"""Operations that copy elements to other places: applied to the labels as to the data.

Indexing is checked for positions along channels, which would mean others once some are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .labels import constant_along
from .tracing import Tracing

__all__ = [
    "fold",
    "join_tensors",
    "pad",
    "put",
    "rearrange",
    "same",
    "select_entries",
    "tensors_in",
    "write",
]

aten = torch.ops.aten


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors of nested arguments."""
    found: list[Tensor] = []
    tree_map(lambda v: found.append(v) if isinstance(v, Tensor) else None, values)
    return found


def same(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Output elements are the first input's, in the same places (clone, to, dropout...)."""
    labels = tracer.store.get(args[0])
    for out in tensors_in(output):
        if labels is None:
            if tracer.is_parameter(args[0]) and out is not args[0]:
                tracer.derived(args[0], out)
        elif out.shape == labels.shape:
            tracer.store.set(out, labels)


def write(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Elements are overwritten by those of another tensor."""
    labels = tracer.store.get(args[1])
    tracer.store.set(args[0], 0 if labels is None else labels.expand(args[0].shape))


def rearrange(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Apply the operation to the labels as it was applied to the data."""
    if all(tracer.store.get(t) is None for t in tensors_in((args, kwargs))):
        return

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype in (torch.int64, torch.int32, torch.bool) and not value.is_floating_point():
            return value.cpu()  # an index
        labels = tracer.store.get(value)
        return torch.zeros(value.shape, dtype=torch.float64) if labels is None else labels.double()

    moved = operation(*tree_map(shadow, args), **tree_map(shadow, kwargs))
    for out, labels in zip(tensors_in(output), tensors_in(moved), strict=True):
        tracer.store.set(out, labels)


def join_tensors(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Concatenation and stacking; a bare parameter among labelled tensors is cut with them."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    known = [m for m in map(tracer.store.get, args[0]) if m is not None]
    if not known:
        return
    if operation.overloadpacket is aten.cat and constant_along(known[0], dim):
        row: Tensor | None = known[0].narrow(dim, 0, 1)
    else:
        row = None if operation.overloadpacket is aten.cat else known[0]
    moved = []
    for tensor in args[0]:
        labels = tracer.store.get(tensor)
        if labels is None and row is not None and tracer.is_parameter(tensor):
            labels = row.expand(tensor.shape)
            tracer.parameter_met(tensor, labels)
        moved.append(labels if labels is not None else known[0].new_zeros(tensor.shape))
    tracer.store.set(output, operation(moved, dim))


def put(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """``x[index] = values``: fine along other axes, not along channels."""
    target, indices, values = args[:3]
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


def pad(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Padding belongs to no channel unless it lies on an axis where the channel is one."""
    rearrange(tracer, operation, (args[0], args[1]), {}, output)


def select_entries(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Indexing with fixed positions: fine along other axes, not along channels."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    packet = operation.overloadpacket
    dims = [args[1]] if packet in (aten.index_select, aten.gather) else _indexed_dims(args[1])
    if any(not constant_along(labels, d) for d in dims):
        tracer.protect([labels], "channels are picked by fixed positions")
    rearrange(tracer, operation, args, kwargs, output)


def _indexed_dims(indices: Sequence[Tensor | None]) -> list[int]:
    return [dim for dim, index in enumerate(indices) if index is not None]


def fold(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Overlap-add: what lands on one element must be one channel."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    data = labels.double()
    count = operation((data > 0).double(), *args[1:], **kwargs)
    total = operation(data, *args[1:], **kwargs)
    squares = operation(data.square(), *args[1:], **kwargs)
    mean = total / count.clamp(min=1)
    if not torch.allclose(squares, mean.square() * count, rtol=1e-9, atol=1e-6):
        tracer.protect([labels], "different channels are added up by an overlap-add")
    tracer.store.set(output, mean.round())
