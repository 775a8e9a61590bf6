"""What several test files need: masks drawn by hypothesis, pruned copies, snapshots of a model."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from architectures import PLAIN, SEPARATORS, randomised, shape_of
from hypothesis import strategies as st
from torch import Tensor, nn

from sepprune_tp.gates import GateSet
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner

TIME = 400
"""Samples of the example input of every architecture."""


def mixture(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise of shape (B, T); the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def example(
    name: str, batch: int = 1, time: int = TIME, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Noise that the model called ``name`` takes; the same for the same seed."""
    return mixture(*shape_of(name, batch, time), seed=seed, dtype=dtype)


@cache
def gated(name: str, scope: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> GateSet:
    """Gates on a small model with random biases; tests share it and must not prune the model."""
    builder = (SEPARATORS | PLAIN)[name]
    return GateSet(randomised(builder, seed, dtype), example(name, dtype=dtype), scope=scope)


def keep_by(gates: GateSet, rule: str, seed: int = 0) -> dict[str, Tensor]:
    """Masks by a simple rule: ``half`` (random, of each group), ``odd`` (another width each)."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for number, group in enumerate(gates.groups):
        kept = max(1, group.size // 2 - (number % 3 if rule == "odd" else 0))
        masks[group.name] = torch.zeros(group.size, dtype=torch.bool)
        masks[group.name][torch.randperm(group.size, generator=generator)[:kept]] = True
    return masks


def drawn_masks(gates: GateSet) -> st.SearchStrategy[dict[str, Tensor]]:
    """Masks of every group: all open, one channel only, or any that keep at least one."""

    def of(size: int) -> st.SearchStrategy[Tensor]:
        every = st.just(torch.ones(size, dtype=torch.bool))
        single = st.integers(0, size - 1).map(lambda i: torch.arange(size) == i)
        some = st.lists(st.booleans(), min_size=size, max_size=size).filter(any).map(torch.tensor)
        return st.one_of(some, single, every)

    return st.fixed_dictionaries({group.name: of(group.size) for group in gates.groups})


def pruned_copy(gates: GateSet, example: Tensor) -> nn.Module:
    """A copy of the gated model with the closed channels cut out."""
    model = copy.deepcopy(gates.model)
    SepPrunePruner(model, example, SepPruneImportance(gates)).step()
    return model


def pruned_with_kept(
    name: str, rule: str = "half", dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module, KeptChannels]:
    """A dense model, a copy with channels cut, and which ones it kept."""
    gates = gated(name, "separator" if name in SEPARATORS else "all", dtype)
    gates.load_masks(keep_by(gates, rule))
    pruned = copy.deepcopy(gates.model)
    kept = KeptChannels(pruned)
    SepPrunePruner(pruned, example(name, dtype=dtype), SepPruneImportance(gates)).step()
    return gates.model, pruned, kept


def oddly_pruned(name: str, scope: str = "all") -> Any:
    """A model with another width in each group."""
    gates = gated(name, scope)
    gates.load_masks(keep_by(gates, "odd"))
    return pruned_copy(gates, example(name))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that the gates might leave a trace in."""
    modules = {
        name: (
            module.training,
            module.__dict__.get("forward"),
            dict(module._forward_hooks),
            dict(module._forward_pre_hooks),
            dict(module._backward_hooks),
            dict(module._backward_pre_hooks),
            sorted(module.__dict__),
            sorted(module._parameters),
        )
        for name, module in model.named_modules()
    }
    return {
        "modules": modules,
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "grads": {name: p.grad for name, p in model.named_parameters()},
        "objects": {name: id(p) for name, p in model.named_parameters()},
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Two snapshots are equal, tensors bit for bit."""
    for key in ("modules", "flags", "grads", "objects"):
        assert before[key] == after[key], key
    assert before["values"].keys() == after["values"].keys()
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name


def far(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())
