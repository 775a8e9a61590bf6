"""The benchmark's criteria: names, options, and masks that meet a budget."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from criteria_cases import LEARNED, SMALL, UNLIMITED, X, chosen, dense, same, search_of, share

from benchmarks.criteria import CRITERIA, OptionError, UnreachableError, criterion
from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner, profile


def test_names() -> None:
    modes = ("", "/local", "/isomorphic")
    kinds = ("Magnitude", "Taylor", "Hessian")
    importances = [f"Group{kind}Importance" for kind in kinds]
    importances += ["LAMPImportance", "FPGMImportance", "RandomImportance"]
    theirs = {f"{one}{mode}" for one in importances for mode in modes}
    theirs |= {f"GroupMagnitudeImportance-L1{mode}" for mode in modes}
    assert len(theirs) == 21
    assert set(CRITERIA) == {*LEARNED, UNLIMITED, "HRank", "NormScale", *theirs}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("model", SMALL)
def test_masks_meet_the_budget(model: str, name: str) -> None:
    search = search_of(model)
    state = copy.deepcopy(search.model.state_dict())
    random = torch.get_rng_state()
    if (model, name) == ("DPRNNTasNet", "NormScale"):  # its widest groups have no norm
        with pytest.raises(UnreachableError, match="50%"):
            chosen(name, search)
        return
    found = chosen(name, search)
    assert torch.equal(torch.get_rng_state(), random)
    sizes = {group.name: group.size for group in GateSet(dense(model), X).groups}
    assert {group: mask.numel() for group, mask in found.masks.items()} == sizes
    assert all(mask.dtype == torch.bool and mask.any() for mask in found.masks.values())
    kept = share(model, found.masks)
    if name == UNLIMITED:
        assert found.details["macs_share"] == kept
    else:
        assert 0.25 < kept <= 0.5
    left = search.model.state_dict()
    assert all(torch.equal(state[key], left[key]) for key in state) == (name != "joint")
    assert all(p.requires_grad and p.grad is None for p in search.model.parameters())
    assert not search.model.training


@pytest.mark.parametrize("name", [*LEARNED, UNLIMITED, "HRank", "NormScale", "RandomImportance"])
def test_masks_follow_the_seed(name: str) -> None:
    first, again, other = (chosen(name, search_of(seed=seed)).masks for seed in (1, 1, 2))
    assert same(first, again)
    if name not in ("HRank", "NormScale"):
        assert not same(first, other)


def test_masks_are_what_pruning_leaves() -> None:
    search = search_of()
    gates = GateSet(search.model, X)
    gates.load_masks(chosen("HRank", search).masks)
    importance = SepPruneImportance(gates)
    SepPrunePruner(search.model, X, importance=importance).step()
    assert profile(search.model, X).macs == gates.cost().macs


@pytest.mark.parametrize("name", [n for n in CRITERIA if n != UNLIMITED])
def test_a_budget_out_of_reach_is_said(name: str) -> None:
    with pytest.raises(UnreachableError, match=r"1%|MACs"):
        chosen(name, search_of(budget=0.01))


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(OptionError, match=r"no criterion is called 'Hrank'; .*HRank, UDSP"):
        criterion("Hrank")
    with pytest.raises(OptionError, match=r"'HRank': no option rate; .*global \(False\)"):
        criterion("HRank", {"rate": 0.5})
    with pytest.raises(OptionError, match="mixtures='two' is not of type int"):
        criterion("HRank", {"mixtures": "two"})
    with pytest.raises(OptionError, match="'sepprune/family' stands for family=True"):
        criterion("sepprune/family", {"family": False})
    with pytest.raises(OptionError, match="at its own budget, not for a family"):
        criterion("sepprune/family", {"rounded": True})
    with pytest.raises(OptionError, match="'none', 'waveform', 'features'"):
        criterion("sepprune", {"distill": "estimates"})
    with pytest.raises(OptionError, match="'trained', 'frozen'"):
        criterion("UDSP", {"weights": "thawed"})
    with pytest.raises(OptionError, match="epsilon"):
        criterion("paper", {"epsilon": 1})
    with pytest.raises(OptionError, match="no option rate"):
        CRITERIA["HRank"](replace(search_of(), options={"rate": 0.5}))


def test_a_scope_may_name_modules() -> None:
    search = replace(search_of(), scope=["masker.TCN.0"], budget=0.9)
    for name in ("HRank", "NormScale", "sepprune", "GroupMagnitudeImportance"):
        masks = chosen(name, search).masks
        assert masks and all(group.startswith("masker.TCN.0") for group in masks)
