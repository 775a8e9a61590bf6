"""Pruning by learned gates, and what a pruner leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning as tp

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from laws import TIME, gated, keep_by, snapshot
from pruning import X, assert_runs, built, learn, params, widths, with_scores

from sepprune_tp.errors import InputError, NotLearnedError
from sepprune_tp.gates import GateSet
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner


def test_importance_without_gates_uses_the_last_learned() -> None:
    model, twin = built("ConvTasNet-gLN"), built("ConvTasNet-gLN")
    learn(model, 0.9)
    gates = learn(model, 0.6)
    learn(twin, 0.5)  # another model's gates are not taken
    expected = gates.cost()
    SepPrunePruner(model, X, SepPruneImportance()).step()
    found = profile(model, X)
    assert (found.params, found.macs) == (expected.params, expected.macs)


def test_without_learning() -> None:
    model = built("ConvTasNet-gLN")
    with pytest.raises(
        NotLearnedError, match="no gates were learned on this ConvTasNet: run learn"
    ):
        SepPrunePruner(model, X, SepPruneImportance())
    with pytest.raises(NotLearnedError, match="no gates were learned on this ConvTasNet"):
        tp.pruner.MetaPruner(model, X, importance=SepPruneImportance(), pruning_ratio=0.4)
    with pytest.raises(NotLearnedError, match="the gates of this importance have not been learned"):
        SepPrunePruner(model, X, SepPruneImportance(GateSet(model, X)))
    with pytest.raises(InputError, match="takes a GateSet, not a ConvTasNet"):
        SepPruneImportance(model)  # type: ignore[arg-type]


def test_another_importance_needs_a_ratio() -> None:
    with pytest.raises(
        InputError, match="GroupMagnitudeImportance ranks channels but does not say"
    ):
        SepPrunePruner(built("ConvTasNet-gLN"), X, tp.importance.GroupMagnitudeImportance())


def test_masks_are_followed_to_the_channel() -> None:
    model = built("ConvTasNet-gLN")
    dense = copy.deepcopy(model)
    gates = GateSet(model, X)
    masks = keep_by(gates, "odd", seed=5)
    gates.load_masks(masks)
    SepPrunePruner(model, X, SepPruneImportance(gates)).step()
    kept = masks["masker.bottleneck.1"]
    expected = dense.masker.bottleneck[1].weight[kept]
    assert torch.equal(model.masker.bottleneck[1].weight, expected)


def test_gates_of_a_model_that_was_pruned_since_say_so() -> None:
    model = built("DPRNNTasNet-GRU-bi")
    gates = GateSet(model, X)
    gates.load_masks(keep_by(gates, "half"))
    SepPrunePruner(model, X, SepPruneImportance(gates)).step()
    with pytest.raises(InputError, match=r"has 4 channels, its gates were made for 8.*new GateSet"):
        gates.__enter__()
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert_runs(model, torch.Size((1, 2, TIME)))
    with GateSet(model, X):
        assert_runs(model, torch.Size((1, 2, TIME)))


def test_a_second_step_by_masks_removes_nothing_more() -> None:
    model = built("ConvTasNet-gLN")
    gates = GateSet(model, X)
    gates.load_masks(keep_by(gates, "half"))
    pruner = SepPrunePruner(model, X, SepPruneImportance(gates))
    pruner.step()
    before = widths(model)
    pruner.step()
    assert widths(model) == before


@pytest.mark.parametrize("cls", [SepPrunePruner, tp.pruner.MetaPruner])
def test_iterations_keep_scores_beside_their_channels(cls: Any) -> None:
    """After two steps the original channels with the best scores are left, to the last weight."""
    model = built("ConvTasNet-gLN")
    dense = copy.deepcopy(model)
    gates = with_scores(model, seed=3)
    options = {"pruning_ratio": 0.6, "iterative_steps": 2, "global_pruning": False}
    pruner = cls(model, X, importance=SepPruneImportance(gates), **options)
    for _ in range(2):
        pruner.step()
    keep = {}
    for group in gates.groups:
        scores = gates.scores[group.gates]
        count = int(group.size * (1 - 0.6) + 1e-9)
        keep[group.name] = scores >= scores.sort(descending=True).values[count - 1]
    stream = keep["masker.bottleneck.1"]
    assert torch.equal(model.masker.bottleneck[1].weight, dense.masker.bottleneck[1].weight[stream])
    for old, new, number in zip(dense.masker.TCN, model.masker.TCN, range(4), strict=True):
        hidden = keep[f"masker.TCN.{number}.shared_block.0"]
        first = old.shared_block[0].weight[hidden][:, stream]
        assert torch.equal(new.shared_block[0].weight, first)
        assert torch.equal(new.res_conv.weight, old.res_conv.weight[stream][:, hidden])


# -- what a pruner leaves alone ------------------------------------------------------------------


@pytest.mark.parametrize("learned", [True, False])
def test_modes_and_flags_stay(learned: bool) -> None:
    model = built("ConvTasNet-gLN")
    gates = gated("ConvTasNet-gLN", "separator")
    gates.load_masks(keep_by(gates, "half"))
    model.train()
    model.masker.TCN[1].eval()
    model.masker.TCN[2].res_conv.weight.requires_grad_(False)
    before = snapshot(model)
    if learned:
        pruner = SepPrunePruner(model, X, SepPruneImportance(gates))
    else:
        magnitude = tp.importance.GroupMagnitudeImportance()
        pruner = SepPrunePruner(model, X, magnitude, pruning_ratio=0.5)
    pruner.step()
    after = snapshot(model)
    assert before["flags"] == after["flags"]
    assert {n: m[0] for n, m in before["modules"].items()} == {
        n: m[0] for n, m in after["modules"].items()
    }
    assert all(not m[2] and not m[3] and m[1] is None for m in after["modules"].values())
    assert params(model) < sum(v.numel() for v in before["values"].values())


def test_verbatim_pruner_leaves_modes_and_flags() -> None:
    model = built("ConvTasNet-gLN").train()
    model.masker.TCN[1].eval()
    modes = {n: m.training for n, m in model.named_modules()}
    gates = with_scores(model)
    tp.pruner.MetaPruner(
        model, X, importance=SepPruneImportance(gates), global_pruning=True, pruning_ratio=0.4
    ).step()
    assert modes == {n: m.training for n, m in model.named_modules()}
