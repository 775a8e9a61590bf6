"""Small separators with random weights, and criteria run on them for a few steps."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

models = pytest.importorskip("asteroid.models", reason="the benchmark needs the extra 'asteroid'")
if not (Path(__file__).parents[1] / "benchmarks").is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)

from benchmarks.criteria import CRITERIA, Batch, Chosen, Search, criterion  # noqa: E402
from sepprune_tp import GateSet  # noqa: E402

CONV = {"n_filters": 8, "bn_chan": 16, "hid_chan": 24, "skip_chan": 8, "n_blocks": 3}
SUDO = {"n_filters": 8, "bn_chan": 16, "num_blocks": 4, "upsampling_depth": 3}
DPRNN = {"n_filters": 8, "bn_chan": 8, "hid_size": 10, "n_repeats": 1, "chunk_size": 10}
SMALL: dict[str, dict[str, Any]] = {
    "ConvTasNet": {**CONV, "n_repeats": 1, "kernel_size": 16, "stride": 8},
    "SuDORMRFImprovedNet": {**SUDO, "kernel_size": 16, "stride": 8},
    "DPRNNTasNet": {**DPRNN, "kernel_size": 16, "stride": 8},
}
X = torch.zeros(1, 800)
LEARNED = ("sepprune", "sepprune/lookahead", "sepprune/family", "paper", "UDSP", "joint", "learned")
UNLIMITED = "paper/last sample"
FEW = {
    **{name: {"steps": 4} for name in (*LEARNED, UNLIMITED)},
    "HRank": {"mixtures": 2},
    **{n: {"mixtures": 2} for n in CRITERIA if "Taylor" in n or "Hessian" in n},
}


@functools.cache
def dense(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(models, name)(n_src=2, **SMALL[name]).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() <= 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def drawn(seed: int) -> Callable[[int, int], list[Batch]]:
    def batches(steps: int, size: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        sources = torch.randn(steps, size, 2, 800, generator=generator)
        return [(s.sum(1), s) for s in sources]

    return batches


def search_of(name: str = "ConvTasNet", budget: float = 0.5, seed: int = 0) -> Search:
    return Search(copy.deepcopy(dense(name)), X, drawn(seed), budget, seed)


def chosen(criterion_name: str, search: Search, **options: Any) -> Chosen:
    return criterion(criterion_name, {**FEW.get(criterion_name, {}), **options})(search)


def share(name: str, masks: dict[str, Tensor]) -> float:
    gates = GateSet(dense(name), X)
    return gates.cost(masks).macs / gates.cost_model.dense.macs


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def constant_channel(model: nn.Module, layer: str, channel: int) -> None:
    found: Any = model.get_submodule(layer)
    with torch.no_grad():
        found.weight[channel], found.bias[channel] = 0, 0
