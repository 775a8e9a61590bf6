"""A small Conv-TasNet with random weights, pruned, saved, and compared."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

models = pytest.importorskip("asteroid.models")
from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner  # noqa: E402

ARGS: dict[str, Any] = {"n_filters": 16, "bn_chan": 8, "hid_chan": 12, "skip_chan": 8}
ARGS |= {"n_blocks": 2, "n_repeats": 1, "n_src": 2}


def tasnet(**more: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.ConvTasNet(**ARGS, **more).eval()


def pruned(model: nn.Module, scope: str = "all", seed: int = 1) -> nn.Module:
    """About a third of the channels removed, a different number in every group."""
    x, generator = torch.randn(1, 800), torch.Generator().manual_seed(seed)
    gates = GateSet(model, x, scope=scope)
    masks = {n: torch.rand(len(m), generator=generator) > 0.35 for n, m in gates.masks().items()}
    for mask in masks.values():
        mask[0] = True
    gates.load_masks(masks)
    SepPrunePruner(model, x, importance=SepPruneImportance(gates)).step()
    return model.eval()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    x = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(one(x), other(x))
    assert not one.training


def saved(content: Any, new: bool = True) -> bytes:
    """What ``torch.save`` writes, in today's form or in that before torch 1.6."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()
