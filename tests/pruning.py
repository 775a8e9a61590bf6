"""What the tests of pruners share: models, importances, and what is asked of a pruned model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from architectures import SEPARATORS, randomised
from laws import TIME, example, mixture

from sepprune_tp.gates import GateSet
from sepprune_tp.search import Budget, learn_gates

SOME = ["ConvTasNet-gLN", "ConvTasNet-bN", "SuDORMRFImprovedNet", "DPRNNTasNet-GRU-bi"]
OTHERS = [
    "ConvTasNet-analytic",
    "TDConvNetpp-gLN",
    "DCCRNet",
    "DCUNet-trim-2-sources",
    "DeMask-analytic",
    "FasNetTAC-gLN",
]
X = mixture(1, TIME)

DCCRN_FIRST_RNN = "masker.encoders.2.rnn.rnns.0.re_module.rnn"

IMPORTANCES: dict[str, Any] = {
    "magnitude-1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "magnitude-2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "hessian": tp.importance.GroupHessianImportance,
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "bn-scale": tp.importance.BNScaleImportance,
    "random": tp.importance.RandomImportance,
}


def built(name: str, seed: int = 0) -> nn.Module:
    return randomised(SEPARATORS[name], seed, torch.float32)


def ready(kind: str, model: nn.Module, name: str = "") -> Any:
    """An importance with what it needs: gradients for Taylor and Hessian."""
    importance = IMPORTANCES[kind]()
    if kind in ("taylor", "hessian"):
        loss = (model(example(name, 2, seed=1)) - 0.1).square()
        if kind == "hessian":
            importance.zero_grad()
            for item in loss.flatten(1).mean(1):
                model.zero_grad()
                item.backward(retain_graph=True)
                importance.accumulate_grad(model)
        else:
            loss.mean().backward()
    return importance


def widths(model: nn.Module) -> dict[str, int]:
    """Channels by layer, in models of all kinds."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            found[name] = module.weight.shape[0]
        elif isinstance(module, nn.RNNBase):
            found[name] = module.hidden_size
    return found


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def assert_runs(model: nn.Module, shape: torch.Size) -> None:
    with torch.no_grad():
        y = model(X)
        assert y.shape == shape and bool(torch.isfinite(y).all())
        assert model(mixture(2, 613)).shape == (2, shape[1], 613)


def answers(model: nn.Module, name: str) -> list[torch.Size]:
    """Shapes of what a model answers to two inputs of other lengths and batches, all finite."""
    with torch.no_grad():
        found = [model(example(name)), model(example(name, 2, 613))]
    assert all(bool(torch.isfinite(y).all()) for y in found)
    return [y.shape for y in found]


def with_scores(
    model: nn.Module, scope: str = "separator", seed: int = 0, x: Tensor = X
) -> GateSet:
    """Gates with distinct scores drawn from a seed, as if they had been learned."""
    gates = GateSet(model, x, scope)
    generator = torch.Generator().manual_seed(seed)
    gates.scores = torch.randperm(len(gates), generator=generator).float()
    gates.learned = True
    return gates


def learn(model: nn.Module, budget: float = 0.6) -> GateSet:
    gates = GateSet(model, X)
    sources = mixture(2, 2, TIME, seed=4)
    learn_gates(
        gates, [(sources.sum(1), sources)], budget=Budget(macs=budget), steps=4, progress=False
    )
    return gates
