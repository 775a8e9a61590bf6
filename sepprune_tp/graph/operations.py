"""What each tensor operation does to channel labels.

Views need no rule (see ``labels``). The rest falls into few families: element by element (labels
meet and are united), copies that rearrange (the operation itself is applied to the labels), spatial
(labels keep their channel), norms, reductions and scans along axes, and products. An operation in
none of them protects every channel that enters it. A rule may assume what only the proof can tell:
what it assumes wrongly is found there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .bare_tensors import Bundle
from .labels import Channels, constant_along, merge_along, unite_pairs, varying_dims
from .products import attention, convolution, matmul
from .rearranging import (
    embed,
    fold,
    join_tensors,
    pack,
    pad,
    put,
    rearrange,
    same,
    scatter,
    select_entries,
    tensors_in,
    unpack,
    write,
)
from .tracing import Rule, Tracing

__all__ = ["PRODUCTS", "rule_for"]

aten = torch.ops.aten
Named = dict[str, Any]


def rule_for(operation: Any) -> Rule | None:
    """The rule of an ATen operation, or None if there is none."""
    packet = operation.overloadpacket
    if packet in _RULES:
        return _RULES[packet]
    if str(packet) in ("torchvision.roi_align", "torchvision.ps_roi_align"):
        return _regions
    if torch.Tag.pointwise in operation.tags:
        return _elementwise
    functional = getattr(aten, packet.__name__.removesuffix("_"), packet)
    if functional is not packet:  # some in-place forms lack the tag, such as hardswish_
        overload = getattr(functional, operation._overloadname, None)
        return None if overload is None else rule_for(overload)
    return None


# -- element by element ---------------------------------------------------------------------------


def _elementwise(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    outputs = tensors_in(output)
    if not outputs:
        return
    meeting = [(t, tracer.store.get(t)) for t in tensors_in(named)]
    if operation.overloadpacket in (aten._prelu_kernel,):
        meeting = meeting[:1] + [(t, label) for t, label in meeting[1:] if t.numel() > 1]
    labels = _meet(tracer, meeting, outputs[0].shape)
    if labels is not None:
        for out in outputs:
            tracer.store.set(out, labels)
    else:
        _compute_bare(tracer, [t for t, _ in meeting], outputs)


def _compute_bare(tracer: Tracing, tensors: list[Tensor], outputs: list[Tensor]) -> None:
    """Parameters that meet each other: their axes are one."""
    shape = outputs[0].shape
    found = [n.expand(shape) for n in map(tracer.bare.numbers, tensors) if n is not None]
    if not found or any(tracer.bare.is_stored(out) for out in outputs):
        return
    widest = max(found, key=lambda n: len(tracer.bare.varying(n)))
    told = [tracer.bare.link(widest, other) for other in found if other is not widest]
    if all(told):
        for out in outputs:
            tracer.bare.set(out, widest)


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
        if labels is None and tensor.numel() > 1:
            tracer.met(tensor, result.expand(shape))
    return result


def _join(tracer: Tracing, one: Tensor, other: Tensor, shape: torch.Size) -> Tensor:
    if one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other)):
        return one
    full = len(shape)
    one, other = (x.reshape((1,) * (full - x.dim()) + tuple(x.shape)) for x in (one, other))
    vary_one, vary_other = varying_dims(one), varying_dims(other)
    for heads, others in ((one, other), (other, one)):
        met = _heads_met(tracer, heads, others, shape)
        if met is not None:
            return met
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


def _heads_met(tracer: Tracing, heads: Tensor, others: Tensor, shape: torch.Size) -> Tensor | None:
    """Labels that stand for whole heads meet channels along several axes; None for others."""
    vary, rest = varying_dims(heads), varying_dims(others)
    if len(vary) != 1 or len(rest) < 2 or vary[0] not in rest:
        return None
    line = heads.expand(shape).movedim(vary[0], 0).reshape(shape[vary[0]], -1).amax(1).long()
    if not all(label in tracer.channels.virtual for label in line.tolist() if label):
        return None
    wide = others
    for dim in range(wide.dim()):
        if dim not in rest:
            wide = wide.amax(dim, keepdim=True)
    members = wide.movedim(vary[0], 0).reshape(shape[vary[0]], -1).long()
    tracer.bundles.append(Bundle(line, members))
    return others.expand(shape)


# -- spatial --------------------------------------------------------------------------------------


def _spatial(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Pooling and resampling of the trailing axes; a channel stays where it is."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        return
    for out in tensors_in(output):
        changed = [d for d in range(labels.dim()) if out.size(d) != labels.size(d)]
        trailing = list(range(max(2, labels.dim() - _SPATIAL_AXES), labels.dim()))
        trailing = sorted({*trailing, *changed}) if labels.dim() > 2 else changed
        if any(not constant_along(labels, d) for d in trailing):
            tracer.protect([labels], "channels lie along an axis that is resampled or pooled")
        kept = labels
        for dim in trailing:
            kept = kept.amax(dim, keepdim=True)
        tracer.store.set(out, kept.expand(out.shape))


_SPATIAL_AXES = 3


def _regions(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Regions cut out of maps (N, C, H, W) and resampled: (K, C, h, w)."""
    labels = tracer.store.get(named["input"] if "input" in named else named["self"])
    if labels is None:
        return
    if any(not constant_along(labels, d) for d in (0, 2, 3)):
        tracer.protect([labels], "channels lie along an axis that is resampled or pooled")
    row = labels.amax((0, 2, 3), keepdim=True)
    for out in tensors_in(output)[:1]:
        tracer.store.set(out, row.expand(out.shape))


# -- norms ----------------------------------------------------------------------------------------


def _batch_norm(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Each channel of axis 1 by itself."""
    labels = tracer.store.get(named["input"])
    if labels is None:
        return
    if set(varying_dims(labels)) - {0, 1}:
        tracer.protect([labels], "a batch norm over an axis with channels")
    state = [named.get(k) for k in ("weight", "bias", "running_mean", "running_var")]
    tracer.bare_norm(state, labels, 1, "batch_norm")
    tracer.store.set(output[0], labels)


def _group_norm(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    labels = tracer.store.get(named["input"])
    if labels is None:
        return
    groups, channels = named["group"], named["C"]
    if not constant_along(labels, 1) and groups > 1:
        merged = merge_along(labels, 1, tracer.channels).view(groups, -1)
        if groups < channels:
            for column in merged.unbind(1):
                tracer.channels.unite_all(column)
    if groups < channels or set(varying_dims(labels)) - {0, 1}:
        tracer.gate([labels], "a group norm", pools=True)
    tracer.bare_norm([named.get("weight"), named.get("bias")], labels, 1, "group_norm")
    tracer.store.set(output[0], labels)


def _layer_norm(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    labels = tracer.store.get(named["input"])
    if labels is None:
        return
    count = len(named["normalized_shape"])
    axes = set(range(labels.dim() - count, labels.dim()))
    if axes & set(varying_dims(labels)):
        tracer.gate([labels], "a layer norm", pools=True)
    for tensor in (named.get("weight"), named.get("bias")):
        if tensor is not None:
            if count == 1:
                tracer.bare_norm([tensor], labels, labels.dim() - 1, "layer_norm")
            else:
                tracer.met(tensor, labels)
    for out in tensors_in(output)[:1]:
        tracer.store.set(out, labels)


# -- reductions and scans -------------------------------------------------------------------------


def _axes(named: Named, rank: int) -> list[int]:
    dims = named.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = [dims]
    return [d % max(1, rank) for d in dims]


_SUMS = ("sum", "linalg_vector_norm", "norm")


def _reduce(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Mean, sum, maximum... along axes: pooled channels must not count once they are closed."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        _reduce_bare(tracer, operation, named, output)
        return
    name = operation.overloadpacket.__name__
    dims = _axes(named, labels.dim())
    pooled = [dim for dim in dims if not constant_along(labels, dim)]
    if pooled:
        why = f"'{name}' pools over channels outside a known norm"
        if name in ("argmax", "argmin", "any", "all", "prod"):
            tracer.protect([labels], why)
        else:
            tracer.gate([labels], why, pools=name not in _SUMS)
    kept = _pooled_labels(tracer, labels, dims, pooled)
    for out in tensors_in(output):
        if pooled and not (out.is_floating_point() or out.is_complex()):
            tracer.mark_positions(out, labels)
        elif out.dim() == labels.dim():
            tracer.store.set(out, kept.expand(out.shape))
        elif out.numel() == kept.numel():
            tracer.store.set(out, kept.reshape(out.shape))


def _pooled_labels(tracer: Tracing, labels: Tensor, dims: list[int], pooled: list[int]) -> Tensor:
    """Labels of what is left: of heads where their channels were pooled, else as before."""
    rest = set(varying_dims(labels)) - set(dims)
    kept = labels
    for dim in dims:
        kept = kept.amax(dim, keepdim=True)
    if not pooled:
        return kept
    if not rest:
        return torch.zeros_like(kept)
    order = [*sorted(rest), *(d for d in range(labels.dim()) if d not in rest)]
    grid = labels.permute(order)
    shape = grid.shape[: len(rest)]
    rows = grid.reshape(math.prod(shape), -1)
    values = torch.unique(rows, dim=1) if rows.shape[1] < 4096 else rows
    heads = tracer.head_labels(values)
    if heads is None:
        return torch.zeros_like(kept)
    back = [kept.size(d) if d in rest else 1 for d in range(labels.dim())]
    return heads.to(kept.dtype).view(back).expand(kept.shape)


def _reduce_bare(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    numbers = tracer.bare.numbers(named["self"])
    if numbers is None:
        return
    kept = numbers
    tracer.bare_pooled(numbers, _axes(named, numbers.dim()), operation.overloadpacket.__name__)
    for dim in _axes(named, numbers.dim()):
        if kept.size(dim):
            kept = kept.narrow(dim, 0, 1)
    for out in tensors_in(output):
        if out.numel() == kept.numel() and out.is_floating_point():
            tracer.bare.set(out, kept.reshape(out.shape))


def _scan(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Softmax, cumulative sum, Fourier transform along an axis: what is mixed goes together."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        bare = tracer.bare.numbers(named["self"])
        if bare is not None:
            name = operation.overloadpacket.__name__
            tracer.bare_pooled(bare, _axes(named, bare.dim()), name)
            for out in tensors_in(output):
                if out.shape == bare.shape and out.is_floating_point():
                    tracer.bare.set(out, bare)
        return
    dims = _axes(named, labels.dim())
    name = operation.overloadpacket.__name__
    for dim in dims:
        if constant_along(labels, dim):
            continue
        if name == "_softmax" and varying_dims(labels) == [dim]:
            tracer.gate([labels], "a softmax over channels", pools=True)
        else:
            tie(tracer.channels, labels, dim)
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
        tie(tracer.channels, labels, dim)
    else:
        tracer.protect([labels], why)


def tie(channels: Channels, labels: Tensor, dim: int) -> None:
    """Unite the labels along ``dim``, for each position on the other axes that change."""
    for other in range(labels.dim()):
        if other != dim % labels.dim() and constant_along(labels, other):
            labels = labels.amax(other, keepdim=True)
    for row in labels.movedim(dim, 0).reshape(labels.size(dim), -1).unbind(1):
        channels.unite_all(row)


# -- reshapes and slices: views, checked for what pruning would do to them ------------------------


def _reshape(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """A channel axis that is split must stay a rectangle; see ``rectangles``."""
    source = named["self"]
    before = tracer.store.get(source)
    if before is None:
        numbers = tracer.bare.numbers(source)
        if numbers is not None and tracer.bare.numbers(output) is None:
            tracer.bare.set(output, numbers.reshape(output.shape))
        return
    after = before.reshape(output.shape)
    if tracer.store.get(output) is None:
        tracer.store.set(output, after)
    if output.dim() <= 1 or math.prod(output.shape) == 0 or source.shape == output.shape:
        return
    vary = varying_dims(after)
    if len(vary) > max(1, len(varying_dims(before))):
        tracer.axis_split(after, vary)


def _slice(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    labels = tracer.store.get(named["self"])
    if labels is None:
        return
    dim = named["dim"]
    size = int(labels.shape[dim])
    left = int(output.shape[dim]) if output.dim() == labels.dim() else 1
    packet = operation.overloadpacket
    if packet is not aten.select and left in (0, size):
        return
    if constant_along(labels, dim) or size <= 1:
        return
    why = "channels are cut out by fixed positions"
    step = named.get("step") or 1
    if step > 1 and size % step == 0 and left == size // step:  # one of several interleaved parts
        tracer.suspect([labels], why)
        tie(tracer.channels, labels.unflatten(dim, (-1, step)), dim % labels.dim() + 1)
        return
    equal = (
        packet is aten.slice and left > 1 and size % left == 0 and named.get("step") in (None, 1)
    )
    if not equal or (named["start"] or 0) % left:
        if packet is aten.slice and left > 1 and named.get("step") in (None, 1):
            tracer.suspect([labels], why)
            if set(varying_dims(labels)) - {dim % labels.dim()}:
                tie(tracer.channels, labels, dim)
            return
        keep_axis(tracer, labels, dim, why)
        return
    tracer.suspect([labels], why)  # one of several equal parts, which shrink alike
    parts = torch.stack(labels.split(left, dim))
    tie(tracer.channels, parts, 0)


def _split(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Equal parts shrink alike, so that a chunk is still the same chunk after pruning."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        return
    if constant_along(labels, named["dim"]):
        return
    parts = [tracer.store.get(o) for o in output]
    if len({p.shape for p in parts if p is not None}) > 1:
        tracer.suspect([labels], "channels are split into parts of different sizes")
    elif len(parts) > 1:
        stacked = torch.stack([p for p in parts if p is not None])
        tie(tracer.channels, stacked, 0)


def _glu(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Gated linear unit: the two halves of an axis meet element by element."""
    labels = tracer.store.get(named["self"])
    if labels is None:
        return
    dim = named["dim"]
    first, second = labels.chunk(2, dim)
    if not constant_along(labels, dim):
        unite_pairs(tracer.channels, first, second, first.shape)
    tracer.store.set(output, first)


def _unbind(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    labels = tracer.store.get(named["self"])
    dim = named["dim"]
    if labels is not None and not constant_along(labels, dim):
        keep_axis(tracer, labels, dim, "channels are taken apart one by one")


def _shuffle(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """Equal parts of the channels are interleaved, so they shrink alike."""
    labels = tracer.store.get(named["self"] if "self" in named else named["input"])
    if labels is not None and not constant_along(labels, 1):
        tie(tracer.channels, labels.unflatten(1, (named["groups"], -1)), 1)
    rearrange(tracer, operation, named, output)


def _no_labels(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """The output holds no data of the inputs (zeros_like, shape queries...)."""


def _keep_view(tracer: Tracing, operation: Any, named: Named, output: Any) -> None:
    """A view whose labels follow from the storage; a copy of one is rearranged."""
    source = next(iter(named.values()))
    if not isinstance(output, Tensor) or not isinstance(source, Tensor):
        return
    if output.untyped_storage()._cdata != source.untyped_storage()._cdata:
        rearrange(tracer, operation, named, output)


_NAMES: dict[Rule, str] = {
    _elementwise: (
        "_prelu_kernel prelu masked_fill masked_fill_ rsub where log_sigmoid_forward hardswish "
        "rrelu_with_noise complex polar lerp addcmul addcdiv _weight_norm_interface"
    ),
    same: (
        "clone _to_copy contiguous native_dropout bernoulli detach_ rot90_ nan_to_num "
        "_conj_physical fake_quantize_per_tensor_affine"
    ),
    write: "copy_",
    rearrange: (
        "repeat flip roll im2col tril triu pixel_shuffle pixel_unshuffle "
        "repeat_interleave _reshape_copy rot90 view_copy permute_copy diag_embed"
    ),
    join_tensors: "cat stack",
    put: "index_put index_put_ _index_put_impl_",
    pad: (
        "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d"
    ),
    select_entries: "index index_select gather",
    scatter: (
        "scatter_add scatter_add_ index_add index_add_ scatter scatter_ index_copy index_copy_ "
        "scatter_reduce scatter_reduce_"
    ),
    embed: "embedding",
    pack: "_pack_padded_sequence",
    unpack: "_pad_packed_sequence",
    fold: "col2im",
    _spatial: (
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
        "upsample_trilinear3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa adaptive_max_pool3d"
    ),
    _batch_norm: (
        "native_batch_norm cudnn_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update"
    ),
    _group_norm: "native_group_norm",
    _layer_norm: "native_layer_norm rms_norm _fused_rms_norm",
    _reduce: (
        "mean sum amax amin max min var std var_mean std_mean prod logsumexp linalg_vector_norm "
        "norm argmax argmin any all"
    ),
    _scan: (
        "_softmax _log_softmax cumsum cumprod cummax cummin sort topk _fft_r2c _fft_c2c _fft_c2r"
    ),
    _shuffle: "channel_shuffle native_channel_shuffle",
    _glu: "glu",
    _reshape: "view _unsafe_view reshape unflatten flatten",
    _slice: "slice select narrow",
    _split: "split split_with_sizes chunk unsafe_split unsafe_chunk unsafe_split_with_sizes",
    _unbind: "unbind",
    _keep_view: (
        "permute transpose t expand unsqueeze squeeze alias detach unfold diagonal real imag "
        "view_as_real view_as_complex as_strided as_strided_ lift_fresh _conj movedim swapaxes "
        "_reshape_alias transpose_ t_ squeeze_ unsqueeze_ swapaxes_ swapdims_"
    ),
    _no_labels: (
        "zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full "
        "new_empty_strided rand_like randn_like fill_ zero_ set_ resize_ _local_scalar_dense "
        "is_nonzero equal _assert_async sym_size item normal_ uniform_ bernoulli_"
    ),
    matmul: "mm bmm addmm baddbmm mv dot linear",
    convolution: "convolution _convolution convolution_overrideable mkldnn_convolution",
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


PRODUCTS = {packet for packet, rule in _RULES.items() if rule in (matmul, convolution, attention)}
"""Operations that multiply and add."""
