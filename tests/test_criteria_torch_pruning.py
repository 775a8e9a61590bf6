"""torch-pruning's criteria, on our graph: the masks are what it would cut."""

from __future__ import annotations

import copy

import pytest
import torch
from criteria_cases import X, chosen, constant_channel, search_of

from benchmarks.criteria import UnreachableError, gradients, memory
from benchmarks.criteria.torch_pruning import smallest_ratio
from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner


def test_gradients_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    original = gradients.gradients_of
    monkeypatch.setattr(gradients, "gradients_of", lambda *a: taken.append(1) or original(*a))
    monkeypatch.setattr(memory, "_KNOWN", type(memory._KNOWN)())
    for name in ("GroupTaylorImportance", "GroupHessianImportance/local"):
        for budget in (0.5, 0.7):
            chosen(name, search_of(budget=budget))
    assert len(taken) == 1
    chosen("GroupTaylorImportance", search_of(seed=1))
    changed = search_of()
    constant_channel(changed.model, "masker.TCN.0.shared_block.0", 0)
    chosen("GroupTaylorImportance", changed)
    assert len(taken) == 3


@pytest.mark.parametrize("mode", ["", "/local", "/isomorphic"])
@pytest.mark.parametrize("model", ["ConvTasNet", "DPRNNTasNet"])
def test_masks_are_what_torch_pruning_cuts(model: str, mode: str) -> None:
    import torch_pruning as tp

    search = search_of(model)
    found = chosen(f"GroupMagnitudeImportance-L1{mode}", search)
    theirs = copy.deepcopy(search.model)
    options = {"global_pruning": mode != "/local", "isomorphic": mode == "/isomorphic"}
    importance = tp.importance.GroupMagnitudeImportance(p=1)
    SepPrunePruner(theirs, X, importance, found.details["ratio"], **options).step()
    gates = GateSet(search.model, X)
    gates.load_masks(found.masks)
    SepPrunePruner(search.model, X, SepPruneImportance(gates)).step()
    left, right = search.model.state_dict(), theirs.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_smallest_ratio_that_meets_a_budget_is_taken() -> None:
    def left(ratio: float) -> float:
        return 1 - ratio if ratio < 0.8 else 0.45  # a group that is left whole again

    assert smallest_ratio(left, 0.5) == pytest.approx(0.5, abs=1e-4)
    assert smallest_ratio(left, 0.21) == pytest.approx(0.79, abs=1e-4)
    with pytest.raises(UnreachableError, match="10%"):
        smallest_ratio(left, 0.1)
