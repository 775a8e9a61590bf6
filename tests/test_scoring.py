"""torch-pruning's importances score recurrent weights on our graph: each by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from sepprune_tp import SepPrunePruner
from sepprune_tp.scoring import seen_by

UNITS = 5
X = torch.zeros(1, 6, 3)


class Stack(nn.Module):
    """A recurrent layer that is read by another one, and that one by a linear layer."""

    def __init__(self, first: nn.RNNBase) -> None:
        super().__init__()
        directions = 2 if first.bidirectional else 1
        self.first, self.last = first, nn.LSTM(directions * UNITS, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.last(self.first(x)[0])[0])
        return y


def built(kind: str, layers: int, bidirectional: bool) -> Stack:
    torch.manual_seed(0)
    first = getattr(nn, kind)(
        3, UNITS, num_layers=layers, bidirectional=bidirectional, batch_first=True
    )
    model = Stack(first)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def belonging(model: Stack, unit: int, read: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
    """What computes and reads a unit of the first layer, one list per row or column, by hand."""
    rnn, found = model.first, []
    for layer in range(rnn.num_layers):
        for tail in ("", "_reverse")[: 2 if rnn.bidirectional else 1]:
            into = read(getattr(rnn, f"weight_ih_l{layer}{tail}"))
            state = read(getattr(rnn, f"weight_hh_l{layer}{tail}"))
            rows = range(unit, len(state), UNITS)  # the unit's row of every gate
            found.append([into[row] for row in rows] + [state[row] for row in rows])
            found.append([state[:, unit]])
            if layer:
                found += [[into[:, c]] for c in range(unit, into.shape[1], UNITS)]
    consumer = read(model.last.weight_ih_l0)
    return found + [[consumer[:, c]] for c in range(unit, consumer.shape[1], UNITS)]


def values(model: Stack, read: Callable[[Tensor], Tensor]) -> list[list[Tensor]]:
    """The same for all units: by unit, a flat vector for each row or column."""
    return [[torch.cat(part) for part in belonging(model, u, read)] for u in range(UNITS)]


def weight(p: Tensor) -> Tensor:
    return p.detach()


def gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def by_terms(term: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Stack], Tensor]:
    def score(model: Stack) -> Tensor:
        pairs = zip(values(model, weight), values(model, gradient), strict=True)
        units = [
            torch.stack([term(a, b).sum() for a, b in zip(w, g, strict=True)]) for w, g in pairs
        ]
        return torch.stack([unit.mean() for unit in units])

    return score


def over_mean(scores: Tensor) -> Tensor:
    return scores / scores.mean()


def lamp(scores: Tensor) -> Tensor:
    ranked = [(s, float(scores[scores >= s].sum())) for s in scores]
    return torch.tensor([float(s) / rest for s, rest in ranked])


def fpgm(model: Stack) -> Tensor:
    units = values(model, weight)
    total = torch.zeros(UNITS)
    for j in range(UNITS):
        for k in range(UNITS):
            for a, b in zip(units[j], units[k], strict=True):
                total[j] += (a.square() - b.square()).norm()
    return total


BY_HAND: dict[str, tuple[Any, Callable[[Stack], Tensor]]] = {
    "magnitude": (
        tp.importance.GroupMagnitudeImportance,
        lambda m: over_mean(by_terms(lambda w, g: w * w)(m)),
    ),
    "taylor": (
        tp.importance.GroupTaylorImportance,
        lambda m: over_mean(by_terms(lambda w, g: (w * g).abs())(m)),
    ),
    "hessian": (
        tp.importance.GroupHessianImportance,
        lambda m: over_mean(by_terms(lambda w, g: w * w * g)(m)),
    ),
    "lamp": (tp.importance.LAMPImportance, lambda m: lamp(by_terms(lambda w, g: w * w)(m))),
    "fpgm": (tp.importance.FPGMImportance, lambda m: over_mean(fpgm(m))),
}


def pruner_of(model: nn.Module, importance: Any, **options: Any) -> SepPrunePruner:
    return SepPrunePruner(model, X, importance, 0.4, scope="all", **options)


def group_of(pruner: SepPrunePruner, name: str) -> Any:
    groups = pruner.graph.get_all_groups([], pruner.root_module_types)
    return next(g for g in groups if pruner.graph.name_of(g[0].dep.target.module) == name)


@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional"),
    [("LSTM", 1, False), ("LSTM", 2, True), ("GRU", 1, True), ("RNN", 2, False)],
)
@pytest.mark.parametrize("name", BY_HAND)
def test_recurrent_units_are_scored(name: str, kind: str, layers: int, bidirectional: bool) -> None:
    model = built(kind, layers, bidirectional)
    kind_of, by_hand = BY_HAND[name]
    importance = kind_of()
    pruner = pruner_of(model, importance)
    group = group_of(pruner, "first")
    assert importance(group) is None  # alone, torch-pruning sees nothing here
    scores = pruner.estimate_importance(group)
    torch.testing.assert_close(scores, by_hand(model), rtol=1e-4, atol=1e-5)
    assert scores.std() > 1e-3


def test_hessian_reads_gradients_that_it_fills_in_itself() -> None:
    model = built("LSTM", 2, True)
    importance = tp.importance.GroupHessianImportance()
    importance.accumulate_grad(model)
    expected = by_terms(lambda w, g: w * w * g * g)(model)
    pruner = pruner_of(model, importance)
    scores = pruner.estimate_importance(group_of(pruner, "first"))
    torch.testing.assert_close(scores, over_mean(expected), rtol=1e-4, atol=1e-5)


def test_what_is_scored_is_what_goes() -> None:
    model = built("LSTM", 2, True)
    pruner = pruner_of(copy.deepcopy(model), tp.importance.GroupMagnitudeImportance())
    scores = pruner.estimate_importance(group_of(pruner, "first"))
    keep = scores.argsort()[2:].sort().values  # 40 % of 5 units go
    pruner.step()
    assert torch.equal(
        pruner.model.last.weight_ih_l0,
        model.last.weight_ih_l0[:, torch.cat([keep, keep + UNITS])][
            torch.cat([g * 4 + kept_of(pruner, model) for g in range(4)])
        ],
    )


def kept_of(pruner: SepPrunePruner, dense: Stack) -> Tensor:
    """Hidden units of the last layer that stay, found by its readers."""
    left = pruner.model.head.weight.detach()
    return torch.tensor(
        [next(j for j in range(4) if torch.equal(dense.head.weight[:, j], c)) for c in left.T]
    )


def test_others_see_the_group_itself() -> None:
    model = built("LSTM", 1, False)
    pruner = pruner_of(model, tp.importance.GroupMagnitudeImportance())
    first, last = group_of(pruner, "first"), group_of(pruner, "last")
    assert seen_by(tp.importance.RandomImportance(), first) is first
    assert seen_by(tp.importance.ActivationImportance(), first) is first
    shown = seen_by(tp.importance.GroupMagnitudeImportance(), last)
    assert [type(d.target.module).__name__ for d, _ in last] == ["LSTM", "Linear"]
    assert shown[len(shown) - 1] is last[1]  # linear layers are themselves
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    pruner = pruner_of(plain, tp.importance.GroupMagnitudeImportance())
    group = group_of(pruner, "0")
    assert seen_by(pruner.importance, group) is group
