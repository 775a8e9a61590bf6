"""The FSDD benchmark's baselines are what torch-pruning's own pruner does on our graph."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

pytest.importorskip("asteroid", reason="the benchmark needs the extra 'asteroid'")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import _fsdd_dense as dense  # noqa: E402
from _fsdd_baselines import (  # noqa: E402
    BASELINES,
    IMPORTANCES,
    MODES,
    Baselines,
    UnreachableError,
    best_ratio,
    gradients_of,
)

from sepprune_tp import SepPrunePruner, profile  # noqa: E402
from sepprune_tp.losses import pit_neg_si_sdr  # noqa: E402

SMALL: dict[str, dict[str, Any]] = {
    "ConvTasNet": {
        "n_filters": 8,
        "bn_chan": 12,
        "hid_chan": 10,
        "skip_chan": 6,
        "n_blocks": 2,
        "n_repeats": 1,
    },
    "DPRNNTasNet": {
        "n_filters": 8,
        "bn_chan": 12,
        "hid_size": 10,
        "n_repeats": 1,
        "chunk_size": 10,
    },
}
X = torch.zeros(1, 400)


def small(name: str) -> nn.Module:
    return dense.build(name, **SMALL[name]).eval()


def mixtures(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sources = torch.randn(count, 1, 2, 400, generator=generator)
    return [(s.sum(1), s) for s in sources]


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return all(a[name].shape == b[name].shape and torch.equal(a[name], b[name]) for name in a)


def test_there_are_eighteen() -> None:
    assert len(set(BASELINES)) == 18
    assert {"LAMPImportance", "LAMPImportance/local", "LAMPImportance/isomorphic"} < set(BASELINES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SMALL)
def test_they_are_what_torch_pruning_does(name: str, mode: str) -> None:
    model = small(name)
    state = copy.deepcopy(model.state_dict())
    gradients = gradients_of(model, mixtures(3))
    baselines = Baselines(model, X)
    whole = profile(model, X).macs
    results = []
    for importance in IMPORTANCES:
        scores = baselines.scores(importance, 5, gradients)
        ratio = best_ratio(baselines.shares(mode, scores), 0.5)
        ours = copy.deepcopy(model)
        baselines.prune(ours, mode, scores, ratio)
        share = profile(ours, X).macs / whole
        assert share <= 0.5
        assert share == baselines.share(baselines.removed(mode, scores, ratio))
        theirs = copy.deepcopy(model)
        named = gradients.mean_square if "Hessian" in importance else gradients.mean
        for key, parameter in theirs.named_parameters():
            parameter.grad = named[key].clone()
        scorer = getattr(tp.importance, importance)()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            pruner = SepPrunePruner(theirs, X, scorer, pruning_ratio=ratio, **MODES[mode])
            pruner.step()
        assert same(ours, theirs)
        results.append(ours)
    assert not all(same(results[0], other) for other in results[1:])
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_scores_follow_the_seed() -> None:
    baselines = Baselines(small("ConvTasNet"), X)
    first, again, other = (baselines.scores("RandomImportance", seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[root], again[root]) for root in first)
    assert not any(torch.equal(first[root], other[root]) for root in first)


def test_gradients_are_of_single_mixtures() -> None:
    model, found = small("ConvTasNet"), mixtures(2)
    both = gradients_of(model, found)
    alone = [gradients_of(model, [one]) for one in found]
    pit_neg_si_sdr(
        model(torch.cat([m for m, _ in found])), torch.cat([s for _, s in found])
    ).backward()
    for name, parameter in model.named_parameters():
        first, second = (one.mean[name] for one in alone)
        torch.testing.assert_close(both.mean_square[name], (first**2 + second**2) / 2)
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(both.mean[name], expected, rtol=1e-3, atol=1e-4)


def test_hessian_is_torch_prunings_for_one_mixture_which_forgets_all_but_the_last() -> None:
    model, found = small("ConvTasNet"), mixtures(3)
    theirs = tp.importance.GroupHessianImportance()
    for mixture, sources in found:
        model.zero_grad()
        pit_neg_si_sdr(model(mixture), sources).backward()
        theirs.accumulate_grad(model)
    pruner = SepPrunePruner(model, X, theirs, pruning_ratio=0.5)
    groups = list(pruner.graph.get_all_groups([], pruner.root_module_types))
    accumulated = [pruner.estimate_importance(group) for group in groups]

    def ours(used: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        scores = Baselines(model, X).scores(
            "GroupHessianImportance", gradients=gradients_of(model, used)
        )
        assert len(scores) == len(groups)
        return [score for score in scores.values() if score is not None]

    for a, b in zip(accumulated, ours(found[-1:]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(accumulated[0], ours(found)[0], rtol=1e-2)


def test_the_smallest_ratio_that_meets_a_budget_is_taken() -> None:
    def share(ratio: float) -> float:
        return 1 - ratio if ratio < 0.8 else 0.45  # a group that is left whole again

    assert best_ratio(share, 0.5) == pytest.approx(0.5, abs=1e-4)
    assert best_ratio(share, 0.5) >= 0.5
    assert best_ratio(share, 0.21) == pytest.approx(0.79, abs=1e-4)
    with pytest.raises(UnreachableError, match="10%"):
        best_ratio(share, 0.1)
