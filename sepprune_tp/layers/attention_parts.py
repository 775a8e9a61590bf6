"""The parts of multi-head attention: projections and products, and the rules of each.

A query or key channel is an index within a head, the same in all heads, so that heads keep equal
widths; a value channel likewise. Queries and keys that are multiplied lose the same channels.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from .attention import ROLES, PrunedAttention, attend, packed, separate, trains
from .base import Count, GatedCall, LayerRule, masked
from .composite import Composite
from .linear import LinearRule
from .regression import LinearRegression, Regression

__all__ = [
    "AttentionParts",
    "OpaqueAttentionRule",
    "Product",
    "ProductRule",
    "Projection",
    "ProjectionRule",
]


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
        return packed(self.host, self.role, kind) if swapped is None else swapped

    def _replace(self, kind: str, value: Tensor | None) -> None:
        host, name = self.host, f"{self.role[0]}_proj_{kind}"
        separate(host)
        if value is not None:
            value.requires_grad_(trains(host._parameters[name]))
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

    def regression(self, module: Any) -> Regression | None:
        return LinearRegression(module)


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


class _UncutPruner(_ProductPruner):
    """Attention that is refused and never cut."""

    def get_out_channels(self, layer: Any) -> int:
        """Features."""
        return int(layer.embed_dim)

    get_in_channels = get_out_channels


_UNCUT = _UncutPruner()


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
        query, key, value = (Projection(module, role) for role in ROLES)
        scores, context = Product(key, over_channels=True), Product(value, over_channels=False)
        return {"query": query, "key": key, "value": value, "scores": scores, "context": context}

    def forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return attend(module, *args, **kwargs)

    def tensor_names(self, module: Any, sizes: Mapping[str, Any]) -> set[str]:
        if "scale_dim" not in sizes or isinstance(module, PrunedAttention):
            return super().tensor_names(module, sizes)
        kinds = ["weight"] if module.in_proj_bias is None else ["weight", "bias"]
        return {f"{role[0]}_proj_{kind}" for role in ROLES for kind in kinds}

    def adopt(self, module: Any, sizes: Mapping[str, Any]) -> None:
        if "scale_dim" in sizes:
            separate(module)


class OpaqueAttentionRule(LayerRule):
    """Attention with options that have no parts: protected, but counted."""

    kind = "attention"

    def pruner(self, module: Any) -> BasePruningFunc:
        return _UNCUT

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
