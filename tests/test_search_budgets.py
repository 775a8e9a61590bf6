"""Budgets of a search: met from below, out of reach said so."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from search_cases import TIME, Separator, gates_of, learn, noise
from torch import Tensor

from sepprune_tp.errors import BudgetError, CheckpointError, InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.profile import profile
from sepprune_tp.pruner import SepPrunePruner
from sepprune_tp.search import Budget
from sepprune_tp.search.ranking import smallest
from sepprune_tp.search.selection import select

few = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "an empty budget bounds nothing: give macs=, params="),
        ({"macs": 0}, r"macs=0: give a share of the dense model in \(0, 1\] or as"),
        ({"macs": -3}, "macs=-3: give a share"),
        ({"params": math.nan}, "params=nan: give a share"),
        ({"macs": "half"}, "macs='half': give a share"),
        ({"macs": 0.5, "of": "decoder"}, "of='decoder': a budget is of='model' or of='separator'"),
    ],
)
def test_malformed_budgets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**options)


@cache
def wide(scope: str = "all") -> GateSet:
    """A Conv-TasNet with enough channels to come close to any budget."""
    models = pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.ConvTasNet(
            n_src=2, n_filters=64, bn_chan=32, hid_chan=64, skip_chan=32, n_blocks=2, n_repeats=2
        )
    return GateSet(model.eval(), noise(1, 800), scope=scope)


def masks_of(gates: GateSet, budget: Budget, seed: int) -> Tensor:
    return select(gates.groups, noise(len(gates), seed=seed), budget.limits(gates))


@few
@given(
    share=st.floats(0.1, 1.0),
    of=st.sampled_from(["model", "separator"]),
    what=st.sampled_from(["macs", "params"]),
    seed=st.integers(0, 99),
)
def test_budgets_are_met_from_below_within_one_percent(
    share: float, of: str, what: str, seed: int
) -> None:
    gates = wide()
    name = what if of == "model" else f"separator_{what}"
    dense = getattr(gates.cost_model.dense, name)
    for amount in (share, share * dense):  # a share, or the same as a number
        keep = masks_of(gates, Budget(**{what: amount}, of=of), seed)
        found = getattr(gates.cost_model.exact(keep), name)
        assert 0.99 * share * dense <= found <= share * dense
    scores = noise(len(gates), seed=seed)
    for group in gates.groups:  # of each group the best are kept
        mask, own = keep[group.gates], scores[group.gates]
        assert mask.any() and (mask.all() or own[mask].min() > own[~mask].max())


def test_two_bounds_at_once() -> None:
    gates = wide()
    dense = gates.cost_model.dense
    for macs, params in ((0.3, 0.9), (0.9, 0.3), (0.5, 0.5)):
        found = gates.cost_model.exact(masks_of(gates, Budget(macs=macs, params=params), 0))
        shares = found.macs / dense.macs, found.params / dense.params
        assert shares[0] <= macs and shares[1] <= params
        assert shares[0] > 0.98 * macs or shares[1] > 0.98 * params


def test_the_whole_model_is_within_a_whole_budget() -> None:
    assert bool(masks_of(wide(), Budget(macs=1.0), 0).all())
    assert bool(masks_of(wide(), Budget(macs=1e15), 0).all())


@pytest.mark.parametrize("budget", [Budget(macs=0.5), Budget(params=0.4, of="separator")])
def test_learned_masks_meet_the_budget_when_pruned(budget: Budget) -> None:
    gates = gates_of()
    result = learn(gates, budget=budget, steps=12)
    small = Separator().eval()
    SepPrunePruner(small, noise(1, TIME), SepPruneImportance(gates)).step()
    found, dense = profile(small, noise(1, TIME)), profile(gates.model, noise(1, TIME))
    assert (found.params, found.macs) == (result.cost.params, result.cost.macs)
    if budget.macs is not None:
        assert found.macs <= 0.5 * dense.macs
    else:
        assert found.separator.params <= 0.4 * dense.separator.params


def test_out_of_reach_says_what_is_reachable() -> None:
    gates = gates_of()
    least = gates.cost_model.exact(smallest(gates.groups))
    dense = gates.cost_model.dense
    message = (
        rf"out of reach with the fewest channels left in each of {len(gates.groups)} groups: "
        rf"macs=0.001 asked, macs=\S+ reachable \({least.macs:,} MACs, "
        rf"{least.macs / dense.macs:.1%} of the dense"
        r" model\)\. Ask for more, or widen the scope"
    )
    with pytest.raises(BudgetError, match=message):
        learn(gates, budget=Budget(macs=0.001))
    with pytest.raises(BudgetError, match=r"params=5 asked, params=\d+ reachable .* separator"):
        learn(gates, budget=Budget(params=5, of="separator"))
    learn(gates, budget=Budget(macs=float(least.macs)))  # the named figure can be had
    assert all(int(mask.sum()) == 1 for mask in gates.masks().values())


def test_a_budget_is_needed() -> None:
    with pytest.raises(BudgetError, match="kind='budget' learns under a budget: give budget="):
        learn(gates_of(), budget=None)
    with pytest.raises(InputError, match="steps=0: a search takes at least one step"):
        learn(gates_of(), steps=0)
    with pytest.raises(InputError, match="kind is 'paper'; it must be one of 'gumbel', 'budget'"):
        gates_of("paper")


def test_a_search_is_not_resumed_under_another_budget(tmp_path: Path) -> None:
    file = tmp_path / "search.pt"
    learn(gates_of(), budget=Budget(macs=0.7), checkpoint=file, checkpoint_every=1)
    with pytest.raises(CheckpointError, match="belongs to another search"):
        learn(gates_of(), budget=Budget(macs=0.6), checkpoint=file, checkpoint_every=1)
