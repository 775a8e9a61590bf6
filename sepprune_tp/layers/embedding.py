"""Embeddings: a table of vectors, whose columns are the channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch_pruning import ops
from torch_pruning.pruner.function import BasePruningFunc, PrunerBox

from .base import Count, LayerRule, Side
from .unit_weights import LinearView, row_view

__all__ = ["EmbeddingRule"]


class EmbeddingRule(LayerRule):
    """``nn.Embedding``: weight (entries, channels); it reads indices, which are no channels."""

    kind = "embedding"

    def pruner(self, module: Any) -> BasePruningFunc:
        return PrunerBox[ops.OPTYPE.EMBED]

    def refuses(self, module: Any) -> str | None:
        if module.max_norm is not None:
            return (
                f"an embedding with max_norm={module.max_norm}, which depends on all its channels"
            )
        return None

    def axis(self, module: Any, tensor: Tensor) -> int:
        return tensor.dim() - 1

    def n_in(self, module: Any) -> int:
        return int(module.num_embeddings)

    def reads(self, module: Any) -> bool:
        return False

    def sides(self, module: Any) -> dict[str, tuple[Side, ...]]:
        return {"weight": (None, "out")}

    def linear_views(self, module: Any, side: Side) -> list[LinearView]:
        return [row_view(module.weight, 1, 1, module.weight.grad)]

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * int(module.num_embeddings)
