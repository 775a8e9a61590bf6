"""``nn.MultiheadAttention`` as what it is: four linear layers and two products.

A query or key channel is an index within a head, the same in all heads, so that heads keep equal
widths; a value channel likewise. Queries and keys that are multiplied lose the same channels; the
scale of their product stays that of the dense layer. Once cut, the module becomes a
``PrunedAttention``: the same interface, separate weights, widths of its own.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_pruning.pruner.function import BasePruningFunc

from .base import Count, GatedCall, LayerRule, masked
from .composite import Composite, parts_of
from .linear import LinearRule

__all__ = [
    "AttentionParts",
    "OpaqueAttentionRule",
    "Product",
    "ProductRule",
    "Projection",
    "ProjectionRule",
    "PrunedAttention",
    "attend",
]

_ROLES = ("query", "key", "value")


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
    for role in _ROLES:
        weight, bias = _packed(module, role, "weight"), _packed(module, role, "bias")
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
    parameter = nn.Parameter(tensor.detach().clone(), requires_grad=_trains(tensor))
    if tensor.grad is not None:
        parameter.grad = tensor.grad.detach().clone()
    return parameter


def _trains(tensor: Tensor) -> bool:
    base = tensor if tensor._base is None else tensor._base
    return bool(base.requires_grad)


def _packed(module: Any, role: str, kind: str) -> Tensor | None:
    """The rows of a dense module's packed weight or bias that belong to one role."""
    own: Tensor | None = getattr(module, f"{role[0]}_proj_{kind}", None)
    if own is not None:
        return own
    full: Tensor | None = getattr(module, f"in_proj_{kind}")
    if full is None:
        return None
    width = full.shape[0] // 3
    start = _ROLES.index(role) * width
    rows = full[start : start + width]
    if not torch.is_grad_enabled() and full.grad is not None:
        rows.grad = full.grad[start : start + width]  # what torch-pruning's criteria read
    return rows


class Projection(nn.Linear):
    """The query, key or value weights of an attention, seen as a linear layer.

    It owns nothing: weight and bias are slices of the attention's, and cutting it cuts those.
    """

    def __init__(self, host: nn.MultiheadAttention, role: str) -> None:
        nn.Module.__init__(self)
        self._host: Any
        object.__setattr__(self, "_host", weakref.ref(host))
        self.role = role
        self._parameters["weight"] = self._parameters["bias"] = None

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def host(self) -> Any:
        """The attention."""
        host = self._host()
        assert host is not None, "a projection does not outlive its attention"
        return host

    def tensor(self, kind: str) -> Tensor | None:
        """Weight (out, in) or bias (out,), or what stands in for it during one gated call."""
        swapped = self._parameters[kind]
        return _packed(self.host, self.role, kind) if swapped is None else swapped

    def _replace(self, kind: str, value: Tensor | None) -> None:
        host, name = self.host, f"{self.role[0]}_proj_{kind}"
        separate(host)
        if value is not None:
            value.requires_grad_(_trains(host._parameters[name]))
        host._parameters[name] = value

    @property
    def weight(self) -> Any:
        """Shape (out, in)."""
        return self.tensor("weight")

    @weight.setter
    def weight(self, value: Any) -> None:
        self._replace("weight", value)

    @property
    def bias(self) -> Any:
        """Shape (out,), or None."""
        return self.tensor("bias")

    @bias.setter
    def bias(self, value: Any) -> None:
        self._replace("bias", value)

    @property
    def out_features(self) -> int:
        """Channels of all heads."""
        return int(self.weight.shape[0])

    @out_features.setter
    def out_features(self, count: int) -> None:
        separate(self.host)  # the count follows from the weight that is set next

    @property
    def in_features(self) -> int:
        """Features that are read."""
        return int(self.weight.shape[1])

    @in_features.setter
    def in_features(self, count: int) -> None:
        separate(self.host)


class ProjectionRule(LinearRule):
    """A projection: a linear layer whose weights belong to the attention."""

    def parameters(self, module: Any) -> list[nn.Parameter]:
        return []

    def ties(self, module: Any) -> tuple[int, int]:
        return 1, int(module.host.num_heads)


class Product(nn.Module):
    """Keys (or values) on their way into the product with queries (or weights): the identity.

    Where the product's multiply-accumulates are counted and, for keys, where closed channels are
    taken out of it.
    """

    def __init__(self, projection: Projection, over_channels: bool) -> None:
        super().__init__()
        self._projection: Any
        object.__setattr__(self, "_projection", weakref.ref(projection))
        self.over_channels = over_channels

    @property
    def channels(self) -> int:
        """Channels of all heads."""
        projection = self._projection()
        assert projection is not None, "a product does not outlive its projection"
        return int(projection.out_features)

    def forward(self, x: Tensor, queries: int) -> Tensor:
        """Return x, shape (B, S, C), which meets ``queries`` positions."""
        return x


class _ProductPruner(BasePruningFunc):
    """There is nothing to cut in a product."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Do nothing: the projections are cut."""
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Channels of all heads."""
        return int(layer.channels)

    get_in_channels = get_out_channels


class ProductRule(LayerRule):
    """A product of attention, over channels (scores) or over positions (context)."""

    kind = "attention"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    _pruner = _ProductPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def pools_channels(self, module: Any) -> bool:
        return bool(module.over_channels)

    def consumes(self, module: Any) -> bool:
        return bool(module.over_channels)

    def run_gated(self, module: Any, call: GatedCall) -> Any:
        x = call.input("x")
        return x if call.mask_in is None else masked(x, call.mask_in, x.dim() - 1)

    def positions(self, module: Any, inputs: tuple[Any, ...], output: Any) -> int:
        return int(output.shape[0] * output.shape[1] * inputs[1])

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_out * positions

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * 0


class AttentionParts(Composite):
    """Multi-head attention as query, key and value projections, scores and context.

    The output projection is a submodule that is called as such.
    """

    def make_parts(self, module: Any) -> dict[str, nn.Module]:
        if _obstacle(module) is not None:
            return {}
        query, key, value = (Projection(module, role) for role in _ROLES)
        scores, context = Product(key, over_channels=True), Product(value, over_channels=False)
        return {"query": query, "key": key, "value": value, "scores": scores, "context": context}

    def forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return attend(module, *args, **kwargs)

    def tensor_names(self, module: Any, sizes: Mapping[str, Any]) -> set[str]:
        if "scale_dim" not in sizes or isinstance(module, PrunedAttention):
            return super().tensor_names(module, sizes)
        kinds = ["weight"] if module.in_proj_bias is None else ["weight", "bias"]
        return {f"{role[0]}_proj_{kind}" for role in _ROLES for kind in kinds}

    def adopt(self, module: Any, sizes: Mapping[str, Any]) -> None:
        if "scale_dim" in sizes:
            separate(module)


class OpaqueAttentionRule(LayerRule):
    """Attention with options that have no parts: protected, but counted."""

    kind = "attention"

    def pruner(self, module: Any) -> BasePruningFunc:
        raise NotImplementedError("this attention is refused and never cut")

    def refuses(self, module: Any) -> str | None:
        return _obstacle(module)

    def n_in(self, module: Any) -> int:
        return int(module.embed_dim)

    n_out = n_in

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def positions(self, module: Any, inputs: tuple[Any, ...], output: Any) -> int:
        """All multiply-accumulates of the call: nothing about them depends on gates."""
        query, key = inputs[0], inputs[1]
        time = 1 if module.batch_first and query.dim() == 3 else 0
        batch = query.shape[1 - time] if query.dim() == 3 else 1
        wide, queries, keys = module.embed_dim, query.shape[time], key.shape[time]
        projections = 2 * queries * wide * wide + keys * (module.kdim + module.vdim) * wide
        keys += (module.bias_k is not None) + bool(module.add_zero_attn)
        return int(batch * (projections + 2 * queries * keys * wide))

    def macs(self, module: Any, positions: int, n_in: Count, n_out: Count) -> Count:
        return n_in * 0 + positions

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        total: int = sum(p.numel() for p in module.parameters())
        return n_in * 0 + total


def _obstacle(module: Any) -> str | None:
    """Why an attention has no parts, or None."""
    if module.bias_k is not None or module.bias_v is not None:
        return "attention with add_bias_kv=True: its extra key and value have no projection"
    if module.add_zero_attn:
        return "attention with add_zero_attn=True, which torch-pruning cannot cut either"
    return None


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
