"""What each tensor operation does to channel labels.

Views need no rule (see ``labels``). The rest falls into few families: element by element (labels
meet and are united), copies that rearrange (the operation itself is applied to the labels), spatial
(labels keep their channel), reductions and scans along axes (what is mixed is tied together), and
products. An operation in none of them protects every channel that enters it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .labels import Channels, constant_along, unite_pairs, varying_dims
from .products import attention, matmul
from .rearranging import (
    fold,
    join_tensors,
    pad,
    put,
    rearrange,
    same,
    select_entries,
    tensors_in,
    write,
)
from .tracing import Rule, Tracing

__all__ = ["rule_for"]

aten = torch.ops.aten


def rule_for(operation: Any) -> Rule | None:
    """The rule of an ATen operation, or None if there is none."""
    packet = operation.overloadpacket
    if packet in _RULES:
        return _RULES[packet]
    if torch.Tag.pointwise in operation.tags:
        return _elementwise
    functional = getattr(aten, packet.__name__.removesuffix("_"), packet)
    if functional is not packet:  # some in-place forms lack the tag, such as hardswish_
        overload = getattr(functional, operation._overloadname, None)
        return None if overload is None else rule_for(overload)
    return None


# -- element by element ---------------------------------------------------------------------------


def _elementwise(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    outputs = tensors_in(output)
    if not outputs:
        return
    meeting = [(t, tracer.store.get(t)) for t in tensors_in((args, kwargs))]
    if operation.overloadpacket in (aten._prelu_kernel,):
        meeting = meeting[:1] + [(t, label) for t, label in meeting[1:] if t.numel() > 1]
    labels = _meet(tracer, [(t, m) for t, m in meeting], outputs[0].shape)
    if labels is not None:
        for out in outputs:
            tracer.store.set(out, labels)
    elif len(meeting) == 1 and tracer.is_parameter(meeting[0][0]):
        tracer.derived(meeting[0][0], outputs[0])


def _meet(
    tracer: Tracing, meeting: list[tuple[Tensor, Tensor | None]], shape: torch.Size
) -> Tensor | None:
    """Unite labels that meet at one element; returns the labels of the result."""
    result: Tensor | None = None
    for _tensor, labels in meeting:
        if labels is None:
            continue
        result = labels if result is None else _join(tracer, result, labels, shape)
    if result is None:
        return None
    for tensor, labels in meeting:
        if labels is None and tensor.numel() > 1 and tracer.is_parameter(tensor):
            tracer.parameter_met(tensor, result.expand(shape))
    return result


def _join(tracer: Tracing, one: Tensor, other: Tensor, shape: torch.Size) -> Tensor:
    if one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other)):
        return one
    full = len(shape)
    one, other = (x.reshape((1,) * (full - x.dim()) + tuple(x.shape)) for x in (one, other))
    vary_one, vary_other = varying_dims(one), varying_dims(other)
    free_one = all(other.size(d) == 1 for d in vary_one)  # other is broadcast where one varies
    free_other = all(one.size(d) == 1 for d in vary_other)
    if vary_one and not vary_other and free_one:
        return one.expand(shape)
    if vary_other and not vary_one and free_other:
        return other.expand(shape)
    if vary_one and vary_other and free_one and free_other:
        tracer.protect([one, other], "an outer product of two channel axes")
    else:
        unite_pairs(tracer.channels, one, other, shape)
    return torch.where(one != 0, one, other).expand(shape)


# -- spatial --------------------------------------------------------------------------------------


def _spatial(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Pooling and resampling of the trailing axes; a channel stays where it is."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    for out in tensors_in(output):
        changed = [d for d in range(labels.dim()) if out.size(d) != labels.size(d)]
        trailing = list(range(2, labels.dim())) or changed
        if any(not constant_along(labels, d) for d in trailing):
            tracer.protect([labels], "channels lie along an axis that is resampled or pooled")
        kept = labels
        for dim in trailing:
            kept = kept.amax(dim, keepdim=True)
        tracer.store.set(out, kept.expand(out.shape))


# -- reductions and scans -------------------------------------------------------------------------


def _axes(args: Any, kwargs: Any, rank: int) -> list[int]:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if dims is None or dims == []:
        return list(range(rank))
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = [dims]
    return [d % rank for d in dims]


def _reduce(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Mean, sum, maximum... along axes: channels that are pooled may not go."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    name = operation.overloadpacket.__name__
    dims = _axes(args, kwargs, labels.dim()) if "dim" in str(operation._schema) else []
    dims = dims or list(range(labels.dim()))
    pooled = [dim for dim in dims if not constant_along(labels, dim)]
    if pooled and set(varying_dims(labels)) - set(dims):
        for dim in pooled:
            _tie(tracer.channels, labels, dim)
    elif pooled:
        tracer.protect([labels], f"'{name}' pools over channels outside a known norm")
    kept = labels
    for dim in dims:
        kept = kept.amax(dim, keepdim=True)
    for out in tensors_in(output):
        if out.dim() == labels.dim():
            tracer.store.set(out, kept.expand(out.shape))
        elif out.numel() == kept.numel():
            tracer.store.set(out, kept.reshape(out.shape))


def _scan(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Softmax, cumulative sum, Fourier transform along an axis: what is mixed goes together."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    dims = _axes(args, kwargs, labels.dim())
    for dim in dims:
        if not constant_along(labels, dim):
            _tie(tracer.channels, labels, dim)
    for out in tensors_in(output):
        if out.shape == labels.shape:
            tracer.store.set(out, labels)
        else:
            kept = labels
            for dim in dims:
                kept = kept.amax(dim, keepdim=True)
            tracer.store.set(out, kept.expand(out.shape))


def keep_axis(tracer: Tracing, labels: Tensor, dim: int, why: str) -> None:
    """Positions along an axis are meant by number: channels may lie along another axis only."""
    if set(varying_dims(labels)) - {dim % labels.dim()}:
        _tie(tracer.channels, labels, dim)
    else:
        tracer.protect([labels], why)


def _tie(channels: Channels, labels: Tensor, dim: int) -> None:
    """Unite the labels along ``dim``, for each position on the other axes that change."""
    for other in range(labels.dim()):
        if other != dim and constant_along(labels, other):
            labels = labels.amax(other, keepdim=True)
    for row in labels.movedim(dim, 0).flatten(1).unbind(1):
        channels.unite_all(row)


# -- reshapes and slices: views, checked for what pruning would do to them ------------------------


def _reshape(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A channel axis that is split must stay a rectangle; see ``rectangles``."""
    before = tracer.store.get(args[0])
    if before is None:
        return
    after = before.reshape(output.shape)
    if tracer.store.get(output) is None:
        tracer.store.set(output, after)
    if output.dim() <= 1 or math.prod(output.shape) == 0 or args[0].shape == output.shape:
        return
    vary = varying_dims(after)
    if len(vary) > max(1, len(varying_dims(before))):
        tracer.axis_split(after, vary)


def _slice(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    dim = args[1] if len(args) > 1 else 0
    size = args[0].size(dim)
    if operation.overloadpacket is aten.slice and output.size(dim) == size:
        return
    if not constant_along(labels, dim) and size > 1:
        keep_axis(tracer, labels, dim, "channels are cut out by fixed positions")


def _split(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Equal parts shrink alike, so that a chunk is still the same chunk after pruning."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    default = kwargs.get("dim", 0)
    dim = (args[2] if len(args) > 2 else default) % labels.dim()
    if constant_along(labels, dim):
        return
    parts = [tracer.store.get(o) for o in output]
    if len({p.shape for p in parts if p is not None}) > 1:
        tracer.protect([labels], "channels are split into parts of different sizes")
    elif len(parts) > 1:
        stacked = torch.stack([p for p in parts if p is not None])
        _tie(tracer.channels, stacked, 0)


def _glu(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Gated linear unit: the two halves of an axis meet element by element."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    first, second = labels.chunk(2, dim)
    if not constant_along(labels, dim):
        unite_pairs(tracer.channels, first, second, first.shape)
    tracer.store.set(output, first)


def _unbind(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    labels = tracer.store.get(args[0])
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if labels is not None and not constant_along(labels, dim):
        keep_axis(tracer, labels, dim, "channels are taken apart one by one")


def _no_labels(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """The output holds no data of the inputs (zeros_like, shape queries...)."""


def _keep_view(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A view whose labels follow from the storage."""


_NAMES: dict[Rule, str] = {
    _elementwise: (
        "_prelu_kernel prelu masked_fill masked_fill_ rsub where log_sigmoid_forward hardswish "
        "rrelu_with_noise complex polar"
    ),
    same: "clone _to_copy contiguous native_dropout bernoulli detach_",
    write: "copy_",
    rearrange: (
        "repeat flip roll im2col tril triu pixel_shuffle pixel_unshuffle "
        "repeat_interleave _reshape_copy"
    ),
    join_tensors: "cat stack",
    put: "index_put index_put_ _index_put_impl_",
    pad: ("constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    select_entries: "index index_select gather",
    fold: "col2im",
    _spatial: (
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
        "upsample_trilinear3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"
    ),
    _reduce: (
        "mean sum amax amin max min var std var_mean std_mean prod logsumexp linalg_vector_norm "
        "norm argmax argmin any all"
    ),
    _scan: ("_softmax _log_softmax cumsum cumprod cummax cummin sort _fft_r2c _fft_c2c _fft_c2r"),
    _glu: "glu",
    _reshape: "view _unsafe_view reshape unflatten flatten",
    _slice: "slice select narrow",
    _split: "split split_with_sizes chunk",
    _unbind: "unbind",
    _keep_view: (
        "permute transpose t expand unsqueeze squeeze alias detach unfold diagonal real imag "
        "view_as_real view_as_complex as_strided as_strided_ lift_fresh _conj movedim swapaxes "
        "_reshape_alias"
    ),
    _no_labels: (
        "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full "
        "new_empty_strided rand_like randn_like fill_ zero_ set_ resize_ _local_scalar_dense "
        "is_nonzero equal _assert_async sym_size item"
    ),
    matmul: "mm bmm addmm baddbmm mv",
    attention: (
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
    ),
}
"""ATen operations of each rule, by name; those that this version of torch lacks are left out."""

_RULES: dict[Any, Rule] = {
    getattr(aten, name): rule
    for rule, names in _NAMES.items()
    for name in names.split()
    if hasattr(aten, name)
}
