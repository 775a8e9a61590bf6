"""Masks, costs, budgets, ratios, steps and gradients that cannot be: refused in time."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from misuse_cases import MAGNITUDE, X, chain, gates_of, halved, pruner, sizes
from torch import Tensor, nn

from sepprune_tp import Budget, GateSet, SepPruneImportance, channel_graph
from sepprune_tp.errors import BudgetError, InputError

# -- masks and costs ------------------------------------------------------------------------------

HALF = [True, False] * 4
WRONG_MASKS: dict[str, tuple[Any, str]] = {
    "floats": ({"one": torch.ones(8)}, "holds float32, it must be bool.*mask > 0.5"),
    "nan": ({"one": torch.full((8,), math.nan)}, "holds float32 with NaN, it must be bool"),
    "zeros and ones": ({"one": torch.tensor([0, 1] * 4)}, "holds int64.*mask == 1"),
    "bytes": ({"one": torch.ones(8, dtype=torch.uint8)}, "holds uint8, it must be bool"),
    "indices": ({"one": torch.tensor([1, 3])}, r"holds int64.*torch.zeros\(8.*mask\[indices\] ="),
    "a list of numbers": ({"one": [0, 1, 2]}, "holds int64"),
    "numbers among bools": ({"one": [True] * 7 + [2]}, "holds int64"),
    "nothing": ({"one": None}, "the mask of group 'one' is a NoneType; give a bool tensor"),
    "text": ({"one": "11110000"}, "the mask of group 'one' is a str"),
    "an unknown name": ({"on": HALF}, "no gated group is called 'on'; the groups are one, two"),
    "another shape": ({"one": HALF[:7]}, r"has shape \(7,\), it must be \(8,\)"),
    "two axes": ({"one": torch.ones(8, 1) > 0}, r"has shape \(8, 1\), it must be \(8,\)"),
    "all closed": ({"one": [False] * 8}, "closes all 8 channels; .* keep at least one"),
    "no masks": (None, "masks are a NoneType; give a dict of bool masks by group name"),
    "a list of masks": ([torch.ones(8) > 0], "masks are a list; give a dict"),
    "a tensor": (torch.ones(14) > 0, "masks are a Tensor; give a dict"),
}


@pytest.mark.parametrize("case", WRONG_MASKS)
def test_wrong_masks_are_refused(case: str) -> None:
    masks, message = WRONG_MASKS[case]
    gates = gates_of(chain())
    with pytest.raises(InputError, match=f"(?s){message}"):
        gates.load_masks(masks)
    assert bool(gates.keep.all()) and not gates.learned
    if masks is not None:  # the present ones
        with pytest.raises(InputError, match=f"(?s){message}"):
            gates.cost(masks)


@pytest.mark.parametrize(
    "mask", [HALF, tuple(HALF), np.array(HALF), list(np.array(HALF)), torch.tensor(HALF)]
)
def test_bools_of_any_kind_are_masks(mask: Any) -> None:
    gates = gates_of(chain())
    expected = gates.cost({"one": torch.tensor(HALF)})
    assert gates.cost({"one": mask}) == expected != gates.cost()
    gates.load_masks({"one": mask})
    assert gates.masks()["one"].tolist() == HALF and bool(gates.masks()["two"].all())


@pytest.mark.parametrize("keep", [torch.ones(14), torch.ones(13) > 0, None, [True] * 14])
def test_all_masks_at_once_are_checked_too(keep: Any) -> None:
    gates = gates_of(chain())
    with pytest.raises(InputError, match=r"give a bool tensor of shape \(14,\), True keeps; got"):
        gates.set_keep(keep)
    gates.set_keep(torch.arange(14) % 2 > 0)


def test_gates_by_hand_are_counted() -> None:
    gates = gates_of(chain())
    with pytest.raises(InputError, match=r"use\(\) takes 14 gates .* got \(14,\) outside"):
        gates.use(torch.ones(14))
    with gates:
        with pytest.raises(InputError, match=r"use\(\) takes 14 gates .* got \(9,\) inside"):
            gates.use(torch.ones(9))
        gates.use(torch.ones(14))


def test_costs_of_other_gates_are_refused() -> None:
    model = gates_of(chain()).cost_model
    with pytest.raises(InputError, match=r"the cost of 14 gates was asked for \(9,\) of them"):
        model.exact(torch.ones(9, dtype=torch.bool))
    with pytest.raises(InputError, match=r"the cost of 14 gates was asked for \(15,\) of them"):
        model.expected(torch.ones(15))
    assert model.exact(torch.ones(14, dtype=torch.bool)) == model.dense


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["macs", "params"])
def test_a_budget_of_a_separator_needs_one(name: str) -> None:
    gates = gates_of(chain())
    with pytest.raises(BudgetError, match="this Chain has no separator that is known by its name"):
        Budget(**{name: 0.5}, of="separator").limits(gates)
    masker = nn.Sequential()
    masker.masker, masker.out = chain(), nn.Conv1d(1, 1, 1).double()
    limits = Budget(**{name: 0.5}, of="separator").limits(GateSet(masker, X.double()))
    assert limits.entries[0].bound > 0


# -- ratios and steps -----------------------------------------------------------------------------

WRONG_RATIOS = [1.0, 1, 1.5, -0.1, math.nan, math.inf, "0.5", True, torch.tensor(0.5), [0.5]]


@pytest.mark.parametrize("ratio", WRONG_RATIOS)
def test_wrong_ratios_are_refused(ratio: Any) -> None:
    model = chain()
    message = "pruning_ratio=.*: give the share of the channels to remove, from 0 to below 1"
    with pytest.raises(InputError, match=message):
        pruner(model, MAGNITUDE, ratio)
    with pytest.raises(InputError, match=r"pruning_ratio_dict\[...\]=.*: give the share"):
        pruner(model, MAGNITUDE, 0.0, pruning_ratio_dict={model.one: ratio})
    with pytest.raises(InputError, match=message), channel_graph("all"):
        tp.pruner.MetaPruner(model, X.double(), MAGNITUDE, False, ratio)
    with pytest.raises(InputError, match=message):
        importance = SepPruneImportance(halved(model))
        tp.pruner.MetaPruner(model, X.double(), importance, pruning_ratio=ratio)
    assert sizes(model) == [8, 6, 1]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({nn.Conv1d(1, 1, 1): 0.5}, "pruning_ratio_dict lists a Conv1d that is not part of Chain"),
        ({(nn.ReLU(),): 0.5}, "lists a ReLU that is not part of Chain; its keys are modules"),
        ({"one": 0.5}, "lists a str that is not part of Chain"),
        ([0.5], "pruning_ratio_dict is a list; give a dict of layers to ratios"),
    ],
)
def test_ratios_of_other_layers_are_refused(ratios: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pruner(chain(), MAGNITUDE, 0.1, pruning_ratio_dict=ratios)


@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("ratio", [0.99, np.float32(0.999)])
def test_a_ratio_near_one_keeps_the_best_channel(ratio: Any, together: bool) -> None:
    model, dense = chain(), chain()
    with torch.no_grad():
        model.one.weight[3] *= 100
        model.two.weight[2] *= 100
    dense.load_state_dict(model.state_dict())
    pruner(model, MAGNITUDE, ratio, global_pruning=together).step()
    assert sizes(model) == [1, 1, 1]
    assert torch.equal(model.one.weight, dense.one.weight[[3]])
    assert torch.equal(model.two.weight, dense.two.weight[[2]][:, [3]])
    learned = chain()
    gates = gates_of(learned)
    gates.scores, gates.learned = torch.arange(14.0), True
    options = {"pruning_ratio": ratio, "global_pruning": together}
    tp.pruner.MetaPruner(learned, X.double(), SepPruneImportance(gates), **options).step()
    assert sizes(learned) == [1, 1, 1]
    assert torch.equal(learned.one.weight, chain().one.weight[[7]])


def test_as_torch_pruning_does_a_group_may_be_left_whole() -> None:
    model = chain()
    made = pruner(model, MAGNITUDE, 0.99)
    made.keeps_best = False
    made.step()
    assert sizes(model) == [8, 6, 1]


def test_rounding_keeps_a_step_of_channels() -> None:
    model = chain()
    pruner(model, MAGNITUDE, 0.99, round_to=2).step()
    assert sizes(model) == [2, 2, 1]


class Halves(nn.Module):
    """Channels in two tied halves."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(1, 12, 3), nn.Conv1d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(nn.functional.glu(self.one(x), 1))
        return y


def test_tied_halves_keep_a_channel_each() -> None:
    model = Halves()
    pruner(model, MAGNITUDE, 0.99).step()
    assert sizes(model) == [2, 1] and model(X).shape == (2, 1, 22)


@pytest.mark.parametrize("round_to", [0, -2, 2.0, "4", True, None])
def test_wrong_steps_of_widths_are_refused(round_to: Any) -> None:
    for model, given in ((chain(), {}), (chain(), {"pruning_ratio": 0.5})):
        importance = SepPruneImportance(halved(model))
        if round_to is None:
            pruner(model, importance, round_to=None, **given)
            continue
        with pytest.raises(InputError, match="round_to="):
            pruner(model, importance, round_to=round_to, **given)
    if round_to is not None:
        with pytest.raises(InputError, match=r"round_to=.*widths are multiples"):
            pruner(chain(), MAGNITUDE, 0.5, round_to=round_to if round_to != "4" else 0)


def test_steps_of_unknown_groups_are_refused() -> None:
    model = chain()
    with pytest.raises(InputError, match="steps: no gated group is called 'three'"):
        pruner(model, halved(model), round_to={"three": 2})
    with pytest.raises(InputError, match="steps of one: 0"):
        pruner(model, halved(model), round_to={"one": 0})


@pytest.mark.parametrize(
    ("option", "value"),
    [("iterative_steps", 0), ("iterative_steps", 1.5), ("max_pruning_ratio", 2.0)],
)
def test_other_numbers_of_torch_pruning_are_checked(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{option}={value}: give"):
        pruner(chain(), MAGNITUDE, 0.5, **{option: value})


# -- importances that need gradients --------------------------------------------------------------

TAYLOR = [tp.importance.GroupTaylorImportance, tp.importance.TaylorImportance]
HESSIAN = [tp.importance.GroupHessianImportance, tp.importance.HessianImportance]


def theirs(model: nn.Module, importance: Any) -> Any:
    with channel_graph("all"):
        return tp.pruner.MetaPruner(model, X.double(), importance, pruning_ratio=0.5)


def ours(model: nn.Module, importance: Any) -> Any:
    return pruner(model, importance, 0.5)


@pytest.mark.parametrize("make", [ours, theirs])
@pytest.mark.parametrize("kind", [*TAYLOR, *HESSIAN])
def test_gradients_are_asked_for_before_anything_is_cut(kind: Any, make: Any) -> None:
    model, importance = chain(), kind()
    made = make(model, importance)
    for empty in (None, 0.0):
        for p in model.parameters():
            p.grad = None if empty is None else torch.zeros_like(p)
        with pytest.raises(InputError, match=f"{kind.__name__} scores channels by .*backward"):
            made.step()
    assert sizes(model) == [8, 6, 1]
    model.zero_grad()
    model(X.double()).square().mean().backward()
    if kind in HESSIAN:
        importance.accumulate_grad(model)
    made.step()
    assert sizes(model) == [4, 3, 1]


@pytest.mark.parametrize("kind", HESSIAN)
def test_gradients_are_not_taken_for_their_squares(kind: Any) -> None:
    model, importance = chain(), kind()
    made = ours(model, importance)
    model(X.double()).square().mean().backward()
    with pytest.raises(InputError, match=r"has not accumulated the gradients.*accumulate_grad"):
        made.step()
    importance.accumulate_grad(model)
    model.zero_grad()  # sets them to None: what was accumulated is still there
    made.step()
    assert sizes(model) == [4, 3, 1]


def test_a_second_iteration_reads_what_the_first_left() -> None:
    model, importance = chain(), tp.importance.GroupHessianImportance()
    made = pruner(model, importance, 0.5, iterative_steps=2)
    model(X.double()).square().mean().backward()
    importance.accumulate_grad(model)
    made.step()
    made.step()
    assert sizes(model) == [4, 3, 1]


def test_obdc_is_asked_for_its_steps() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    options = {"importance": tp.importance.OBDCImportance(), "pruning_ratio": 0.5}
    with channel_graph("all"):
        made = tp.pruner.MetaPruner(net, torch.randn(2, 4), **options)
    with pytest.raises(InputError, match="OBDCImportance has seen no gradients: call its _prepare"):
        made.step()
    assert net[0].out_features == 8


def test_scores_that_are_no_numbers_are_told() -> None:
    model = chain()
    with torch.no_grad():
        model.one.weight.zero_()
        model.two.weight.zero_()
    made = pruner(copy.deepcopy(model), MAGNITUDE, 0.5)
    with pytest.warns(UserWarning, match="the scores of group 'one' are NaN, so it keeps its cha"):
        made.step()
