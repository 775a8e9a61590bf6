"""Recalibration: statistics of the model and the data at hand, and norms that match the dense."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import SEPARATORS, randomised
from laws import example
from test_reconstruction import pruned_with_kept
from torch import Tensor

from sepprune_tp.errors import InputError
from sepprune_tp.recovery.recalibration import recalibrate

BATCH_NORMED = "ConvTasNet-bN"


def outputs(model: torch.nn.Module, layer: str, x: Tensor) -> Tensor:
    """(channels, positions) of a layer."""
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda m, a, y: found.append(y))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return found[0].transpose(0, 1).flatten(1)


class TestBatchNorm:
    def test_statistics_are_those_of_the_batches(self) -> None:
        model = randomised(SEPARATORS[BATCH_NORMED], 0, torch.float64)
        norm = model.get_submodule("masker.bottleneck.0")
        momentum, before = norm.momentum, copy.deepcopy(model.state_dict())
        x = [example(BATCH_NORMED, 4, seed=i, dtype=torch.float64) for i in range(3)]
        assert recalibrate(model, x) == [], "no dense model, nothing to match"
        inputs = [outputs(model, "encoder", batch) for batch in x]
        mean = torch.stack([i.mean(1) for i in inputs]).mean(0)
        variance = torch.stack([i.var(1) for i in inputs]).mean(0)
        assert torch.allclose(norm.running_mean, mean, atol=1e-12)
        assert torch.allclose(norm.running_var, variance, atol=1e-12)
        assert norm.momentum == momentum and not norm.training
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed and all("running_" in k or "num_batches" in k for k in changed)

    def test_leaves_models_without_them_alone(self) -> None:
        model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32)
        before = copy.deepcopy(model.state_dict())
        recalibrate(model, [example("ConvTasNet-gLN", 2)])
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class TestMatching:
    @pytest.mark.parametrize("name", ["ConvTasNet-gLN", "ConvTasNet-cLN", "SuDORMRFImprovedNet"])
    def test_channels_have_the_moments_of_the_dense_model(self, name: str) -> None:
        dense, pruned, kept = pruned_with_kept(name)
        x = example(name, 2, dtype=torch.float64)
        layer = next(n for n, m in dense.named_modules() if n.endswith("2") and hasattr(m, "gamma")
                     ) if "Conv" in name else "masker.sm.0.proj_1x1.norm"  # fmt: skip
        keep = kept.outputs(layer, dense.get_submodule(layer).gamma.numel())
        wanted = outputs(dense, layer, x)[keep]
        before = outputs(pruned, layer, x)
        done = recalibrate(pruned, [x], dense, kept, samples=10**6)
        found = outputs(pruned, layer, x)
        assert layer in {d.layer for d in done}
        for moment in (lambda y: y.mean(1), lambda y: y.std(1)):
            assert torch.allclose(moment(found), moment(wanted), atol=1e-8)
            assert not torch.allclose(moment(before), moment(wanted), atol=1e-3)

    def test_refuses_half_of_what_it_needs(self) -> None:
        dense, pruned, _ = pruned_with_kept("ConvTasNet-gLN")
        with pytest.raises(InputError, match="both dense="):
            recalibrate(pruned, [example("ConvTasNet-gLN")], dense)
        with pytest.raises(InputError, match="batches is empty"):
            recalibrate(pruned, [])
