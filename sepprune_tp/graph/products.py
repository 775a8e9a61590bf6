"""What matrix products do to channel labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .bare_tensors import Bundle
from .labels import constant_along, unite_pairs, varying_dims
from .tracing import Tracing

__all__ = ["attention", "convolution", "matmul"]

aten = torch.ops.aten
_OPERANDS = {  # by name of the operation: its two factors, and what is added
    "mm": ("self", "mat2", None),
    "bmm": ("self", "mat2", None),
    "addmm": ("mat1", "mat2", "self"),
    "baddbmm": ("batch1", "batch2", "self"),
    "mv": ("self", "vec", None),
    "dot": ("self", "tensor", None),
    "linear": ("input", "weight", "bias"),
}


def matmul(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """(…, I, K) @ (…, K, J): channels along K meet and end; those along I or J stay."""
    kind = operation.overloadpacket.__name__
    first, second, third = _OPERANDS[kind]
    left, right = named[first], named[second]
    if kind in ("mv", "dot"):
        right = right.unsqueeze(-1)
    if kind == "dot":
        left = left.unsqueeze(0)
    if kind == "linear":
        right = right.t()
    one, other = tracer.store.get(left), tracer.store.get(right)
    if one is None and other is None:
        return
    made = _with_weight(tracer, left, right, one, other)
    if made is None:
        made = _of_activations(tracer, one, other)
    if made is not None:
        made = made.squeeze(-1) if kind in ("mv", "dot") else made
        made = made.squeeze(0) if kind == "dot" else made
        made = made.expand(output.shape)
        tracer.store.set(output, made)
        added = None if third is None else named[third]
        if added is not None:
            _added(tracer, added, made)


def _with_weight(
    tracer: Tracing, left: Tensor, right: Tensor, one: Tensor | None, other: Tensor | None
) -> Tensor | None:
    """Labels where one factor is a bare weight; None where neither is."""
    if one is not None and other is None and tracer.bare.known(right):
        if constant_along(one, -1):
            tracer.scaling = [one.amax(-1)]
            return one.amax(-1, keepdim=True)  # channels lie along other axes, and stay there
        return tracer.bare_product(left, right, one, "linear")
    if other is not None and one is None and tracer.bare.known(left):
        if constant_along(other, -2):
            tracer.scaling = [other.amax(-2)]
            return other.amax(-2, keepdim=True)
        turned = tracer.bare_product(
            right.transpose(-1, -2), left.transpose(-1, -2), other.transpose(-1, -2), "linear"
        )
        return None if turned is None else turned.transpose(-1, -2)
    return None


def _added(tracer: Tracing, added: Tensor, labels: Tensor) -> None:
    """What a fused product adds meets its outputs."""
    present = tracer.store.get(added)
    if present is not None:
        unite_pairs(tracer.channels, present.expand(labels.shape), labels, labels.shape)
    elif added.numel() > 1 and tracer.bare.known(added):
        tracer.met(added, labels)


def _of_activations(tracer: Tracing, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    tracer.scaling = [_scaling(one, other)]
    ended = _contract(tracer, one, other)
    rows, columns = _left_over(one, -1), _left_over(other, -2)
    if ended is not None:
        return ended
    row_vary = rows is not None and bool(varying_dims(rows))
    column_vary = columns is not None and bool(varying_dims(columns))
    if row_vary and column_vary:
        assert rows is not None and columns is not None
        return _beside(tracer, rows, columns)
    return columns if column_vary or rows is None else rows


def _scaling(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Labels that the cost of a product goes with: summed over, or left on one side."""
    if one is not None and not constant_along(one, -1):
        return one.amax(-2)
    if other is not None and not constant_along(other, -2):
        return other.amax(-1)
    for labels, dim in ((other, -2), (one, -1)):
        if labels is not None and varying_dims(labels):
            return labels.amax(dim)
    return None


def _beside(tracer: Tracing, rows: Tensor, columns: Tensor) -> Tensor:
    """Both factors have channels left: fine where those of one stand for whole heads."""
    for heads, others in ((rows, columns), (columns, rows)):
        axes = varying_dims(heads)
        if axes == [0] and heads.dim() == 3 and len(varying_dims(others)) > 1:
            _bundle(tracer, heads[:, 0, 0], others)
            return others
    if rows.dim() == 3 and varying_dims(rows) == [0] == varying_dims(columns):
        unite_pairs(tracer.channels, rows[:, 0, 0], columns[:, 0, 0], rows[:, 0, 0].shape)
        return columns
    tracer.protect([rows, columns], "a product of two channel axes")
    return columns


def _bundle(tracer: Tracing, heads: Tensor, others: Tensor) -> None:
    """The head of each batch entry goes with all channels that it met there."""
    members = others.reshape(len(heads), -1)
    rows = torch.unique(torch.cat([heads[:, None], members], 1).long(), dim=0)
    if len(rows) == rows[:, 0].unique().numel():
        tracer.bundles.append(Bundle(rows[:, 0], rows[:, 1:]))


def attention(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """A fused product of queries, keys and values (B, heads, L, d): values keep their channels."""
    query, key, value = (named[name] for name in ("query", "key", "value"))
    q, k, v = (tracer.store.get(t) for t in (query, key, value))
    if q is not None and k is not None:
        k = _repeated(k, q)
        _contract(tracer, q.flatten(0, -3), k.flatten(0, -3).transpose(-1, -2))
    elif q is not None or k is not None:
        loose = [x for x in (q, k) if x is not None and not constant_along(x, -1)]
        if loose:
            tracer.protect(loose, "a product with a tensor that has no channels to match")
    tracer.scaling = [None if q is None else q.amax(-2), None]
    if v is None:
        return
    if q is not None:
        v = _repeated(v, q)
        rows = q.amax((0, -2)) if q.dim() == 4 else q.amax(-2)
        heads = tracer.head_labels(rows.reshape(-1, rows.shape[-1]))
        if heads is not None and v.dim() == 4:
            _bundle(tracer, heads, v[0].amax(-2))
    kept = _left_over(v, -2)
    tracer.scaling[1] = v.amax(-2)
    if kept is None:
        tracer.protect([v], "channels lie along the positions of attention")
    else:
        tracer.store.set(output[0], kept.expand(output[0].shape))


def _repeated(labels: Tensor, like: Tensor) -> Tensor:
    """Labels of grouped heads, one for each head of the queries; batch axes expanded."""
    if labels.dim() == like.dim() == 4 and labels.size(1) != like.size(1):
        labels = labels.repeat_interleave(like.size(1) // labels.size(1), 1)
    return labels.expand(*like.shape[:-2], *labels.shape[-2:])


def _left_over(labels: Tensor | None, dim: int) -> Tensor | None:
    """Labels after the sum over ``dim``, or None if that is where the channels lay."""
    if labels is None or not constant_along(labels, dim):
        return None
    return labels.amax(dim, keepdim=True)


def _contract(tracer: Tracing, one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Unite what is summed over; labels of heads where several rows of channels end."""
    if one is not None and other is not None:
        inner_one, inner_other = not constant_along(one, -1), not constant_along(other, -2)
        if inner_one and inner_other:
            paired = one.amax(-2), other.amax(-1)
            unite_pairs(tracer.channels, *paired, paired[0].shape)
            if not tracer.consumed(paired[0]) and not tracer.consumed(paired[1]):
                tracer.gate([paired[0]], "a product over channels")
            if paired[0].dim() == 2:
                heads = tracer.head_labels(paired[0])
                return None if heads is None else heads.view(-1, 1, 1)
            return None
        loose = ([one] if inner_one else []) + ([other] if inner_other else [])
    elif one is not None:
        loose = [one] if not constant_along(one, -1) else []
    else:
        assert other is not None
        loose = [other] if not constant_along(other, -2) else []
    if loose:
        tracer.protect(loose, "a product with a tensor that has no channels to match")
    return None


def convolution(tracer: Tracing, operation: Any, named: dict[str, Any], output: Any) -> None:
    """A convolution outside of layers: known where its weight is a parameter or buffer."""
    if tracer.convolved(named, output):
        return
    labels = [x for x in map(tracer.store.get, (named["input"], named["weight"])) if x is not None]
    if not labels:
        return
    why = "operation 'convolution' has a computed weight and may mix channels"
    tracer.protect(labels, why)
    tracer.store.set(output, tracer.channels.fixed(why))
