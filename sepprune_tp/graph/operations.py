"""What each tensor operation does to channel labels.

Views need no rule (see ``labels``). The rest falls into few families: element by element (labels
meet and are united), copies that rearrange (the operation itself is applied to the labels), spatial
(labels keep their channel), reductions and scans along axes (what is mixed is tied together), and
products. An operation in none of them protects every channel that enters it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .labels import Channels, LabelStore, constant_along, unite_pairs, varying_dims
from .products import attention, matmul

__all__ = ["Rule", "Tracing", "rule_for"]

aten = torch.ops.aten


class Tracing(Protocol):
    """What an operation's rule may use of the tracer."""

    store: LabelStore
    channels: Channels

    def protect(self, labels: Sequence[Tensor], why: str) -> None:
        """Protect every channel in ``labels``; the place in the code is added to ``why``."""

    def parameter_met(self, tensor: Tensor, labels: Tensor) -> None:
        """A bare parameter met ``labels`` (broadcast to a common shape) element by element."""

    def axis_split(self, labels: Tensor, axes: Sequence[int]) -> None:
        """A reshape made ``labels``, which change along several axes, of fewer channel axes."""

    def consumed(self, labels: Tensor) -> bool:
        """Whether a layer closes these channels for the product that they go into."""

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the model (or a view of one)."""


Rule = Callable[[Tracing, Any, tuple[Any, ...], dict[str, Any], Any], None]
"""(tracer, operation, args, kwargs, output) -> None; writes the labels of the output."""


def rule_for(operation: Any) -> Rule | None:
    """The rule of an ATen operation, or None if there is none."""
    packet = operation.overloadpacket
    if packet in _RULES:
        return _RULES[packet]
    if torch.Tag.pointwise in operation.tags:
        return _elementwise
    return None


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda v: found.append(v) if isinstance(v, Tensor) else None, values)
    return found


# -- element by element ---------------------------------------------------------------------------


def _elementwise(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    outputs = _tensors(output)
    if not outputs:
        return
    meeting = [(t, tracer.store.get(t)) for t in _tensors((args, kwargs))]
    if operation.overloadpacket in (aten._prelu_kernel,):
        meeting = meeting[:1] + [(t, label) for t, label in meeting[1:] if t.numel() > 1]
    labels = _meet(tracer, [(t, m) for t, m in meeting], outputs[0].shape)
    if labels is not None:
        for out in outputs:
            tracer.store.set(out, labels)


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


# -- copies that rearrange ------------------------------------------------------------------------


def _same(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Output elements are the first input's, in the same places (clone, to, dropout...)."""
    labels = tracer.store.get(args[0])
    if labels is not None:
        for out in _tensors(output):
            if out.shape == labels.shape:
                tracer.store.set(out, labels)


def _copy(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    labels = tracer.store.get(args[1])
    tracer.store.set(args[0], 0 if labels is None else labels.expand(args[0].shape))


def _rearrange(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Apply the operation to the labels as it was applied to the data."""
    if all(tracer.store.get(t) is None for t in _tensors((args, kwargs))):
        return

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype in (torch.int64, torch.int32, torch.bool) and not value.is_floating_point():
            return value.cpu()  # an index
        labels = tracer.store.get(value)
        return torch.zeros(value.shape, dtype=torch.float64) if labels is None else labels.double()

    moved = operation(*tree_map(shadow, args), **tree_map(shadow, kwargs))
    for out, labels in zip(_tensors(output), _tensors(moved), strict=True):
        tracer.store.set(out, labels)


def _pad(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Padding belongs to no channel unless it lies on an axis where the channel is one."""
    _rearrange(tracer, operation, (args[0], args[1]), {}, output)


def _select_entries(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Indexing with fixed positions: fine along other axes, not along channels."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    packet = operation.overloadpacket
    dims = [args[1]] if packet in (aten.index_select, aten.gather) else _indexed_dims(args[1])
    if any(not constant_along(labels, d) for d in dims):
        tracer.protect([labels], "channels are picked by fixed positions")
    _rearrange(tracer, operation, args, kwargs, output)


def _indexed_dims(indices: Sequence[Tensor | None]) -> list[int]:
    return [dim for dim, index in enumerate(indices) if index is not None]


def _fold(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
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


# -- spatial --------------------------------------------------------------------------------------


def _spatial(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Pooling and resampling of the trailing axes; a channel stays where it is."""
    labels = tracer.store.get(args[0])
    if labels is None:
        return
    for out in _tensors(output):
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
    for dim in dims:
        if not constant_along(labels, dim):
            tracer.protect([labels], f"'{name}' pools over channels outside a known norm")
            break
    kept = labels
    for dim in dims:
        kept = kept.amax(dim, keepdim=True)
    for out in _tensors(output):
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
    for out in _tensors(output):
        if out.shape == labels.shape:
            tracer.store.set(out, labels)
        else:
            kept = labels
            for dim in dims:
                kept = kept.amax(dim, keepdim=True)
            tracer.store.set(out, kept.expand(out.shape))


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
        tracer.protect([labels], "channels are cut out by fixed positions")


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
        tracer.protect([labels], "channels are taken apart one by one")


def _no_labels(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """The output holds no data of the inputs (zeros_like, shape queries...)."""


def _keep_view(tracer: Tracing, operation: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A view whose labels follow from the storage."""


_NAMES: dict[Rule, str] = {
    _elementwise: "_prelu_kernel prelu masked_fill masked_fill_ rsub where log_sigmoid_forward",
    _same: "clone _to_copy contiguous native_dropout bernoulli detach_",
    _copy: "copy_",
    _rearrange: (
        "cat stack repeat flip roll im2col tril triu pixel_shuffle pixel_unshuffle "
        "repeat_interleave _reshape_copy"
    ),
    _pad: ("constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"),
    _select_entries: "index index_select gather",
    _fold: "col2im",
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
        "view_as_real view_as_complex as_strided lift_fresh _conj movedim swapaxes "
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
