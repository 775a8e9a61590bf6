"""Multi-head attention part by part, and the form that it takes once it is cut.

``attend`` computes what ``nn.MultiheadAttention`` computes, through its projections as layers. A
``PrunedAttention`` has the interface of the dense module, separate weights, query/key and value
widths of its own, and the scale of the dense module.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .composite import parts_of

__all__ = ["ROLES", "PrunedAttention", "attend", "packed", "separate", "trains"]

ROLES = ("query", "key", "value")


class PrunedAttention(nn.MultiheadAttention):
    """Multi-head attention whose query/key and value widths are not those of its input.

    Attributes:
        q_proj_weight: Shape (heads * query width, query features); ``k_`` and ``v_`` likewise.
        q_proj_bias: Shape (heads * query width,), or None; ``k_`` and ``v_`` likewise.
        scale_dim: Head width of the dense layer; scores are divided by its square root.
    """

    scale_dim: int

    embed_dim = property(lambda self: self.out_proj.out_features)
    kdim = property(lambda self: self.k_proj_weight.shape[1])
    vdim = property(lambda self: self.v_proj_weight.shape[1])
    head_dim = property(lambda self: self.q_proj_weight.shape[0] // self.num_heads)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of ``nn.MultiheadAttention``."""
        return attend(self, *args, fused=True, **kwargs)


@torch.no_grad()
def separate(module: nn.MultiheadAttention) -> None:
    """Turn a dense module into a :class:`PrunedAttention` in place, with the same weights.

    Args:
        module: The module; nothing happens if it is one already.
    """
    if isinstance(module, PrunedAttention):
        return
    tensors = {}
    for role in ROLES:
        weight, bias = packed(module, role, "weight"), packed(module, role, "bias")
        tensors[f"{role[0]}_proj_weight"] = _own(weight)
        tensors[f"{role[0]}_proj_bias"] = _own(bias)
    scale_dim = module.head_dim
    for name in ("embed_dim", "kdim", "vdim", "head_dim"):
        module.__dict__.pop(name)
    module.__class__ = PrunedAttention
    module.scale_dim = scale_dim
    module._qkv_same_embed_dim = False  # keeps torch's fused transformer layers away
    module.in_proj_weight = module.in_proj_bias = None  # type: ignore[assignment]
    for name, tensor in tensors.items():
        if name in module._parameters:
            module._parameters[name] = tensor
        else:
            module.register_parameter(name, tensor)


def _own(tensor: Tensor | None) -> nn.Parameter | None:
    """A parameter of its own with the values (and gradient) of a slice of another."""
    if tensor is None:
        return None
    parameter = nn.Parameter(tensor.detach().clone(), requires_grad=trains(tensor))
    if tensor.grad is not None:
        parameter.grad = tensor.grad.detach().clone()
    return parameter


def trains(tensor: Tensor) -> bool:
    """Whether a parameter, or the one that a tensor is a slice of, requires a gradient."""
    base = tensor if tensor._base is None else tensor._base
    return bool(base.requires_grad)


def packed(module: Any, role: str, kind: str) -> Tensor | None:
    """The rows of a dense module's packed weight or bias that belong to one role."""
    own: Tensor | None = getattr(module, f"{role[0]}_proj_{kind}", None)
    if own is not None:
        return own
    full: Tensor | None = getattr(module, f"in_proj_{kind}")
    if full is None:
        return None
    width = full.shape[0] // 3
    start = ROLES.index(role) * width
    rows = full[start : start + width]
    if not torch.is_grad_enabled() and full.grad is not None:
        rows.grad = full.grad[start : start + width]  # what torch-pruning's criteria read
    return rows


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    fused: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention through its parts.

    Args:
        module: The attention.
        query: Shape (L, E), (L, B, E), or (B, L, E) if ``batch_first``.
        key: Likewise, S positions.
        value: Likewise, S positions.
        key_padding_mask: Keys to ignore (True) or numbers to add, shape (B, S) or (S,).
        need_weights: Whether the weights are returned.
        attn_mask: Pairs to ignore (True) or numbers to add, shape (L, S) or (B * heads, L, S).
        average_attn_weights: Whether returned weights are averaged over heads.
        is_causal: A hint that ``attn_mask`` is causal; the mask itself is used.
        fused: Whether torch's fused kernel may be used where no weights are asked for.

    Returns:
        The output, shaped like ``query``; the weights (B, L, S) or (B, heads, L, S), or None.
    """
    batched, first = query.dim() == 3, bool(module.batch_first) and query.dim() == 3
    if not batched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
    if not first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    parts, heads, queries = parts_of(module), module.num_heads, query.shape[1]
    q = _split(parts["query"](query), heads)
    k = _split(parts["scores"](parts["key"](key), queries), heads)
    v = _split(parts["context"](parts["value"](value), queries), heads)
    added = _added(attn_mask, key_padding_mask, q, k)
    dropout = module.dropout if module.training else 0.0
    scale = 1 / math.sqrt(module.scale_dim if hasattr(module, "scale_dim") else module.head_dim)
    if fused and not need_weights:
        weights, mixed = (
            None,
            functional.scaled_dot_product_attention(
                q, k, v, attn_mask=added, dropout_p=dropout, scale=scale
            ),
        )
    else:
        scores = (q * scale) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if added is None else scores + added, dim=-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        mixed = weights @ v
    out = module.out_proj(mixed.transpose(1, 2).flatten(2))
    out = out if first else out.transpose(0, 1)
    if need_weights and weights is not None:
        weights = weights.mean(1) if average_attn_weights else weights
        weights = weights if batched else weights.squeeze(0)
    return out if batched else out.squeeze(1), weights if need_weights else None


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def _added(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor
) -> Tensor | None:
    """Both masks as numbers to add to scores (B, heads, L, S), or None."""
    added: Tensor | None = None
    if attn_mask is not None:
        shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        added = _numbers(attn_mask if attn_mask.dim() == 2 else attn_mask.view(shape), q)
    if key_padding_mask is not None:
        padding = _numbers(key_padding_mask.view(q.shape[0], 1, 1, k.shape[2]), q)
        added = padding if added is None else added + padding
    return added


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(
        mask, -math.inf
    )
