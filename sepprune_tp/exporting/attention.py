"""Multi-head attention with sizes that stay open: as torch computes it, without its shortcuts.

Letters: L steps of the queries, S steps of keys and values, B batch, E width, H heads.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .portable import register_forward

__all__ = ["register_attention"]

_torch_forward = nn.MultiheadAttention.forward


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """(L, B, E), (S, B, E_k), (S, B, E_v) -> (L, B, E), or with B first; no weights.

    Masks, added biases and unbatched input go torch's way.
    """
    options = {k: v for k, v in kwargs.items() if v is not None and k != "need_weights"}
    plain = module.bias_k is None and not module.add_zero_attn and query.dim() == 3
    if args or options or not plain:
        return _torch_forward(module, query, key, value, *args, **kwargs)
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if module._qkv_same_embed_dim:
        weights = module.in_proj_weight.chunk(3)
    else:
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    q, k, v = (
        _split(F.linear(x, w, b), module.num_heads)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    found = F.linear(found, module.out_proj.weight, module.out_proj.bias)
    return found if module.batch_first else found.transpose(0, 1), None


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, L, E) -> (B, H, L, E / H)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def register_attention() -> None:
    """Have torch's attention exported so."""
    register_forward(_torch_forward, _attend)
