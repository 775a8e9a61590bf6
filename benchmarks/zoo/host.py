"""torch-pruning by itself on one row, as its examples call it; runs in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks.zoo.failures import Failures
from benchmarks.zoo.ours import RATIO
from benchmarks.zoo.outputs import call, floats
from benchmarks.zoo.row import ZooRow

__all__ = ["host", "host_with_heads"]

Tell = Callable[[dict[str, Any]], None]
_TIMM_ATTENTION = ("timm.layers.attention", "Attention")


def host(row: ZooRow, tell: Tell) -> None:
    """Prune with torch-pruning's own graph; only the classifier is spared."""
    _prune(row, tell, {})


def host_with_heads(row: ZooRow, tell: Tell) -> None:
    """The same, with the heads of attentions filled in as in torch-pruning's examples."""
    _prune(row, tell, None)


def _prune(row: ZooRow, tell: Tell, heads: dict[nn.Module, int] | None) -> None:
    failures = Failures()
    model, example = row.build(), row.example()
    with torch.no_grad():
        dense = floats(_picked(row, call(model, example)))
    options: dict[str, Any] = {"num_heads": {}}
    if heads is None:
        options = heads_of(model)
        tell({"heads": len(options["num_heads"])})
        if not options["num_heads"]:
            return
    tell({"stage": "building the graph"})
    with failures.stage("building the graph"):
        pruner = tp.pruner.BasePruner(
            model,
            example,
            importance=tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=RATIO,
            ignored_layers=list(row.classifier(model)),
            in_channel_groups={},
            out_channel_groups={},
            output_transform=functools.partial(_listed, row),
            **options,
        )
    tell({"failures": failures.found, "stage": "pruning"})
    if failures:
        return
    with failures.stage("pruning"):
        for group in pruner.step(interactive=True):
            group.prune()
        follow(model, pruner.num_heads)
    tell({"failures": failures.found, "stage": "running"})
    if failures:
        return
    with failures.stage("running"), torch.no_grad():
        pruned = floats(_picked(row, call(model, example)))
        if [t.shape for t in pruned] != [t.shape for t in dense]:
            failures.add("running", "wrong shape", "the output changed shape")
    left = sum(p.numel() for p in model.parameters())
    tell({"failures": failures.found, "stage": "done", "left": left})


def _picked(row: ZooRow, output: Any) -> Any:
    return output if row.output is None else row.output(output)


def _listed(row: ZooRow, output: Any) -> list[Tensor]:
    """The outputs as torch-pruning can follow them: tensors in a list."""
    return [t for t in floats(_picked(row, output)) if t.grad_fn is not None]


# -- heads, as in examples/ of torch-pruning ------------------------------------------------------


def heads_of(model: nn.Module) -> dict[str, Any]:
    """``num_heads`` and how to prune them, for every attention that its examples know.

    Returns:
        Keyword arguments of the pruner.
    """
    found: dict[nn.Module, int] = {}
    config: Any = getattr(model, "config", None)
    for module in model.modules():
        parts: Any = module
        count = _count(module)
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif count and isinstance(getattr(module, "qkv", None), nn.Linear):  # timm
            found[parts.qkv] = count
        elif count and isinstance(getattr(module, "query", None), nn.Linear):  # BERT, ViT, Swin
            found |= {parts.query: count, parts.key: count, parts.value: count}
        elif isinstance(getattr(module, "q_proj", None), nn.Linear):  # LLaMA
            count = count or _count(config)
            shared = getattr(config, "num_key_value_heads", None) or count
            if count:
                found |= {parts.q_proj: count, parts.k_proj: shared, parts.v_proj: shared}
    options: dict[str, Any] = {"num_heads": found}
    if hasattr(config, "rope_parameters"):  # the width of a head stays: it is that of the rotation
        options |= {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": RATIO}
    return options


def _count(module: Any) -> int:
    for name in ("num_heads", "num_attention_heads", "n_heads"):
        count = getattr(module, name, None)
        if isinstance(count, int):
            return count
    return 0


def follow(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Correct the sizes of attentions after pruning, and timm's forward, as its examples do."""
    for module in model.modules():
        parts: Any = module
        if isinstance(getattr(module, "qkv", None), nn.Linear) and parts.qkv in heads:
            parts.num_heads = heads[parts.qkv]
            parts.head_dim = parts.qkv.out_features // (3 * parts.num_heads)
            if (type(module).__module__, type(module).__name__) == _TIMM_ATTENTION:
                parts.forward = functools.partial(_timm_attention, module)
        elif isinstance(getattr(module, "query", None), nn.Linear) and parts.query in heads:
            parts.num_attention_heads = heads[parts.query]
            parts.attention_head_size = parts.query.out_features // parts.num_attention_heads
            parts.all_head_size = parts.query.out_features
        elif isinstance(getattr(module, "q_proj", None), nn.Linear) and parts.q_proj in heads:
            parts.num_heads = heads[parts.q_proj]
            parts.head_dim = parts.q_proj.out_features // parts.num_heads
            parts.num_key_value_heads = heads[parts.k_proj]
            parts.num_key_value_groups = parts.num_heads // parts.num_key_value_heads


def _timm_attention(
    self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The forward of torch-pruning's example for timm, for widths that differ from the input."""
    batch, count, _ = x.shape
    qkv = self.qkv(x).reshape(batch, count, 3, self.num_heads, self.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = self.q_norm(q), self.k_norm(k)
    x = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
    x = x.transpose(1, 2).reshape(batch, count, -1)
    found: Tensor = self.proj_drop(self.proj(self.norm(x)))
    return found
