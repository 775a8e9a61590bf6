"""What matrix products do to channel labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .labels import constant_along, unite_pairs, varying_dims
from .tracing import Tracing

__all__ = ["attention", "matmul"]

aten = torch.ops.aten


def matmul(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """(…, I, K) @ (…, K, J): channels along K meet and end; those along I or J stay."""
    added = args[0] if operation.overloadpacket in (aten.addmm, aten.baddbmm, aten.addmv) else None
    left, right = args[:2] if added is None else args[1:3]
    one, other = tracer.store.get(left), tracer.store.get(right)
    if one is None and other is None:
        return
    _contract(tracer, (left, one), (right, other))
    rows, columns = _left_over(one, -1), _left_over(other, -2)
    if rows is None and columns is None:
        return
    row_vary = rows is not None and bool(varying_dims(rows))
    column_vary = columns is not None and bool(varying_dims(columns))
    if row_vary and column_vary:
        assert rows is not None and columns is not None
        tracer.protect([rows, columns], "a product of two channel axes")
    kept = columns if column_vary or rows is None else rows
    assert kept is not None
    tracer.store.set(output, kept.expand(output.shape))


def attention(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A fused product of queries, keys and values (B, heads, L, d): values keep their channels."""
    for tensor in args[:2]:
        labels = tracer.store.get(tensor)
        if labels is not None and not constant_along(labels, -1):
            tracer.leave_ungated([labels], "a product over channels that no gate can reach")
    values = tracer.store.get(args[2])
    if values is None:
        return
    kept = _left_over(values, -2)
    if kept is None:
        tracer.protect([values], "channels lie along the positions of attention")
    else:
        tracer.store.set(output[0], kept.expand(output[0].shape))


def _left_over(labels: Tensor | None, dim: int) -> Tensor | None:
    """Labels after the sum over ``dim``, or None if that is where the channels lay."""
    if labels is None or not constant_along(labels, dim):
        return None
    return labels.amax(dim, keepdim=True)


def _contract(
    tracer: Tracing, left: tuple[Tensor, Tensor | None], right: tuple[Tensor, Tensor | None]
) -> None:
    one, other = left[1], right[1]
    if one is not None and other is not None:
        inner_one, inner_other = not constant_along(one, -1), not constant_along(other, -2)
        if inner_one and inner_other:
            paired = one.amax(-2), other.amax(-1)
            unite_pairs(tracer.channels, *paired, paired[0].shape)
            if not tracer.consumed(paired[0]) and not tracer.consumed(paired[1]):
                tracer.leave_ungated([one, other], "a product over channels that no gate can reach")
            return
        loose = ([one] if inner_one else []) + ([other] if inner_other else [])
    elif one is not None:
        loose = [one] if not constant_along(one, -1) else []
    else:
        assert other is not None
        loose = [other] if not constant_along(other, -2) else []
    if loose:
        tracer.protect(loose, "a product with a tensor that has no channels to match")
