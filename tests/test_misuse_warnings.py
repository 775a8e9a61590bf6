"""What is not pruned, or not seen, is told once; outputs that do not count protect nothing."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch_pruning as tp
from misuse_cases import MAGNITUDE, X, chain, gates_of, halved, no_warnings, pruned, pruner, sizes
from torch import Tensor, nn

from sepprune_tp import GateSet, SepPruneImportance, SepPrunePruner, channel_graph, profile
from sepprune_tp.errors import BudgetError, InputError
from sepprune_tp.pruner import pruned_copy

FEW = r"(?s)can be pruned \(\d+\.\d%\). What protects most:"


class Mostly(nn.Module):
    """A small part that can be pruned beside large ones that cannot, each for a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)
        self.order, self.sorted, self.out = nn.Linear(6, 40), nn.Linear(6, 30), nn.Linear(70, 50)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ranked = torch.cat([self.order(x).sort(-1)[0], self.sorted(x).cumsum(-1)], -1)
        return self.two(self.one(x)), self.out(ranked)


Y = torch.randn(2, 6)


def test_gates_that_find_little_say_why() -> None:
    with pytest.warns(UserWarning, match=FEW) as found:
        GateSet(Mostly(), Y, scope="all")
    assert len(found) == 1 and Path(found[0].filename) == Path(__file__)
    text = str(found[0].message)
    assert text.startswith("Mostly has few gates: 40 of the 4,083 parameters in scope 'all' can")
    first, *_ = reasons = text.splitlines()[1:-1]
    assert first == "  'two', 'out' (3,565 parameters): it is an output of the model"
    assert 1 < len(reasons) <= 3 and "'order'" in reasons[1]


@pytest.mark.parametrize("lent", [False, True], ids=["SepPrunePruner", "MetaPruner"])
def test_pruners_that_find_little_say_why(lent: bool) -> None:
    def make(model: nn.Module, **options: Any) -> Any:
        if not lent:
            return pruner_of(model, **options)
        with channel_graph("all"):
            return tp.pruner.MetaPruner(model, Y, MAGNITUDE, pruning_ratio=0.5, **options)

    with pytest.warns(UserWarning, match=FEW) as found:
        make(Mostly())
    assert len(found) == 1 and Path(found[0].filename) == Path(__file__)
    with no_warnings():
        plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
        make(plain, ignored_layers=[plain[0]])  # by the user's own wish


def pruner_of(model: nn.Module, **options: Any) -> Any:
    return SepPrunePruner(model, Y, MAGNITUDE, 0.5, "all", **options)


def test_a_pruner_that_finds_nothing_says_why() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(-1), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    alone = nn.Sequential(nn.Linear(6, 4))
    with pytest.warns(UserWarning, match="0 of the 28 parameters in scope 'all' can be pruned"):
        pruner_of(alone)
    with pytest.raises(
        InputError, match=r"(?s)no channel of Sequential can be gated.*an output of"
    ):
        GateSet(alone, Y, scope="all")


def test_only_what_is_in_scope_counts() -> None:
    model = Mostly()
    with no_warnings():
        GateSet(model, Y, scope=[model.one])
        pruner_of(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)))
    with pytest.warns(UserWarning, match=r"of the 280 parameters in scope \(modules\)") as found:
        SepPrunePruner(model, Y, MAGNITUDE, 0.5, [model.order])
    assert len(found) == 1 and "'out'" not in str(found[0].message)


def test_who_follows_gates_does_not_repeat_their_warnings() -> None:
    with pytest.warns(UserWarning, match=FEW):
        gates = GateSet(Mostly(), Y, scope="all")
    gates.load_masks({"one": torch.arange(4) < 2})
    with no_warnings():
        pruner_of_gates(gates).step()
        copy.deepcopy(GateSet.__copy__(gates))


def pruner_of_gates(gates: GateSet) -> Any:
    return SepPrunePruner(copy.deepcopy(gates.model), Y, SepPruneImportance(gates))


# -- what the example does not reach --------------------------------------------------------------


class Auxiliary(nn.Module):
    """A head that runs in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.auxiliary = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        self.unused = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x).relu()
        return (self.head(y), self.auxiliary(y)) if self.training else self.head(y)


UNREACHED = r"'auxiliary.0', 'auxiliary.2' of Auxiliary did not run on the example"


@pytest.mark.parametrize("make", [lambda m: GateSet(m, Y, scope="all"), pruner_of])
def test_layers_that_the_example_misses_are_named(make: Any) -> None:
    with pytest.warns(UserWarning, match=UNREACHED) as found:
        make(Auxiliary())
    assert len(found) == 1 and Path(found[0].filename) == Path(__file__)


def test_an_example_that_reaches_all_layers_is_fine() -> None:
    class Both(Auxiliary):
        def forward(self, x: Tensor, both: bool = False) -> Any:
            y = self.body(x).relu()
            return (self.head(y), self.auxiliary(y)) if both else self.head(y)

    model = Both()
    with no_warnings():
        gates = GateSet(model, (Y, True), scope="all")
    gates.load_masks({"body": torch.arange(8) < 3})
    cut = pruned_copy(gates)
    assert [tuple(y.shape) for y in cut(Y, True)] == [(2, 2), (2, 2)]
    with pytest.warns(UserWarning, match="did not run on the example"):
        GateSet(model, Y, scope="all")


def test_layers_that_no_group_could_feed_are_not_named() -> None:
    model = Auxiliary()
    model.body = nn.Identity()
    model.head, model.auxiliary = nn.Linear(6, 2), nn.Linear(6, 2)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pruner_of(model)
    assert not [w for w in found if "did not run on the example" in str(w.message)]


# -- masks that cannot be followed ----------------------------------------------------------------


class Features(nn.Module):
    """Hands out its features beside its answer, in a container of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.one(x).relu()
        return {"answer": self.two(y), "features": y}


def answer(outputs: dict[str, Tensor]) -> Tensor:
    return outputs["answer"]


def test_outputs_that_do_not_count_protect_nothing() -> None:
    model = Features().eval()
    with pytest.raises(InputError, match=r"(?s)no channel of Features can be gated.*an output of"):
        GateSet(model, Y, scope="all")
    gates = GateSet(model, Y, scope="all", output_transform=answer)
    assert [group.name for group in gates.groups] == ["one"]
    gates.load_masks({"one": torch.arange(8) < 3})
    cut = pruned_copy(gates)  # the pruner knows what the gates know
    assert cut.one.out_features == 3
    assert gates.cost().params == profile(cut, Y).params
    with gates, torch.no_grad():
        torch.testing.assert_close(answer(model(Y)), answer(cut(Y)))
    theirs = copy.deepcopy(model)
    importance = SepPruneImportance(copy.deepcopy(gates))
    tp.pruner.MetaPruner(theirs, Y, importance, pruning_ratio=0.5).step()
    assert theirs.one.out_features == 4


def test_an_output_transform_reaches_every_pruner() -> None:
    def widths(make: Any) -> int:
        model = Features()
        make(model).step()
        return int(model.one.out_features)

    def lent(model: nn.Module, **options: Any) -> Any:
        with channel_graph("all", **options):
            return tp.pruner.MetaPruner(model, Y, MAGNITUDE, pruning_ratio=0.5)

    assert widths(lambda m: lent(m, output_transform=answer)) == 4
    options = {"scope": "all", "output_transform": answer}
    assert widths(lambda m: SepPrunePruner(m, Y, MAGNITUDE, 0.5, **options)) == 4
    with pytest.warns(UserWarning, match="0 of the 74 parameters"):
        assert widths(lambda m: lent(m)) == 8
    with pytest.warns(UserWarning, match="0 of the 74 parameters"):
        assert widths(lambda m: SepPrunePruner(m, Y, MAGNITUDE, 0.5, "all")) == 8


def test_masks_of_channels_that_are_protected_here_are_refused() -> None:
    gates = GateSet(Features(), Y, scope="all", output_transform=answer)
    gates.load_masks({"one": torch.arange(8) < 3})
    options = {"output_transform": lambda outputs: outputs}
    made = SepPrunePruner(Features(), Y, SepPruneImportance(gates), **options)
    with pytest.raises(
        InputError, match=r"close channels of 'one' that cannot be removed.*an outp"
    ):
        made.step()
    model = Features()
    made = SepPrunePruner(model, Y, SepPruneImportance(gates), ignored_layers=[model.one])
    with no_warnings():
        made.step()  # by the user's own wish
    assert model.one.out_features == 8


def test_a_forward_function_calls_the_model_everywhere() -> None:
    def call(model: nn.Module, batch: SimpleNamespace) -> Any:
        return model(batch.x)

    model, batch = chain(), SimpleNamespace(x=X.double())
    gates = GateSet(model, batch, scope="all", forward_fn=call)
    plain = gates_of(chain())
    assert gates.cost() == plain.cost() and len(gates) == len(plain)
    gates.load_masks({"one": torch.arange(8) < 3})
    assert sizes(pruned_copy(gates)) == [3, 6, 1]
    for name in ("latency", "memory"):
        with pytest.raises(BudgetError, match=f"{name} is measured by .*forward_fn"):
            gates.resource(name)
    assert gates.resource("macs").dense == plain.resource("macs").dense


# -- scope ----------------------------------------------------------------------------------------


def test_gates_of_some_modules_prune_copies_of_the_model() -> None:
    model = chain()
    gates = halved(model, scope=[model.one])
    assert sizes(pruned(model, gates)) == [4, 6, 1]
    pruner(model, gates).step()
    assert sizes(model) == [4, 6, 1]
    with pytest.raises(InputError, match="Sequential has no module 'one', which is in the scope"):
        pruner(nn.Sequential(chain()), gates)
