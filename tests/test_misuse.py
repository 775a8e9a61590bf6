"""Gates on a model that is not theirs any more, or not as it was: made right, or refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch_pruning as tp
from misuse_cases import X, chain, gates_of, halved, outputs_alike, pruned, pruner, sizes
from torch import nn

from sepprune_tp import ChannelGraph, GateSet, SepPruneImportance, SepPrunePruner
from sepprune_tp.errors import InputError
from sepprune_tp.gates import remember

# -- pruned before --------------------------------------------------------------------------------


def test_pruning_twice_by_the_same_masks_removes_nothing_more() -> None:
    model = chain()
    gates = halved(model)
    for _ in range(3):
        pruner(model, gates).step()
        assert sizes(model) == [4, 3, 1]
    again = copy.deepcopy(model)
    pruner(again, gates).step()
    assert sizes(again) == [4, 3, 1]


def test_pruning_by_tighter_masks_goes_on_from_what_is_left() -> None:
    model, dense = chain(), chain()
    gates = halved(model)
    pruner(model, gates).step()
    gates.load_masks({"one": torch.tensor([False, True, False, True] + [False] * 4)})
    pruner(model, gates).step()
    assert sizes(model) == [2, 3, 1]
    assert torch.equal(model.one.weight, dense.one.weight[[1, 3]])
    assert torch.equal(model.two.weight, dense.two.weight[:3, [1, 3]])


def test_masks_that_keep_what_is_gone_are_warned_of() -> None:
    model = chain()
    gates = halved(model)
    pruner(model, gates).step()
    gates.load_masks({"two": torch.arange(6) > 1})
    with pytest.warns(UserWarning, match="'two' of this Chain lost channels before that the masks"):
        pruner(model, gates).step()
    assert sizes(model) == [4, 1, 1]  # of channels 0, 1, 2 the masks keep 2 alone


def test_copies_of_the_dense_model_are_pruned_as_often_as_one_likes() -> None:
    model = chain()
    gates = halved(model)
    cuts = [pruned(model, gates) for _ in range(3)]
    assert all(sizes(cut) == [4, 3, 1] for cut in cuts) and sizes(model) == [8, 6, 1]
    assert all(outputs_alike(gates, cut, X.double()) for cut in cuts)
    with torch.no_grad():
        assert not torch.allclose(model(X.double()), cuts[0](X.double()))


def test_scores_follow_their_channels_through_several_prunings() -> None:
    model, dense = chain(), chain()
    gates = gates_of(model)
    gates.scores = torch.tensor([3.0, 9, 1, 7, 2, 8, 0, 6, 4, 1, 5, 2, 6, 3])
    gates.learned = True
    for left in (6, 4):
        options = {"pruning_ratio_dict": {model.one: 1 - left / model.one.out_channels}}
        pruner(model, gates, 0.0, **options).step()
        assert model.one.out_channels == left
    assert torch.equal(model.one.weight, dense.one.weight[[1, 3, 5, 7]])


def test_gates_follow_a_model_that_another_importance_pruned() -> None:
    model = chain()
    with torch.no_grad():
        model.one.weight[[2, 5]] *= 1e-3
        model.two.weight[:, [2, 5]] *= 1e-3
    gates = gates_of(model)
    gates.load_masks({"one": torch.tensor([True, True, True, False, True, False, False, True])})
    magnitude = tp.importance.GroupMagnitudeImportance()
    options = {"pruning_ratio_dict": {model.one: 0.25}}
    dense = copy.deepcopy(model)
    pruner(model, magnitude, 0.0, **options).step()
    with pytest.warns(UserWarning, match="'one' of this Chain lost channels"):
        pruner(model, gates).step()
    assert torch.equal(model.one.weight, dense.one.weight[[0, 1, 4, 7]])


def test_gates_of_a_pruned_model_count_its_channels() -> None:
    model = chain()
    pruner(model, halved(model)).step()
    second = gates_of(model)
    second.load_masks({"one": torch.tensor([True, False, False, True])})
    dense = copy.deepcopy(model)
    for target in (copy.deepcopy(model), model):
        pruner(target, second).step()
        assert torch.equal(target.one.weight, dense.one.weight[[0, 3]])


def test_the_last_learned_gates_are_followed_as_they_are() -> None:
    model = chain()
    gates = halved(model)
    remember(gates)
    gates.load_masks({"one": torch.arange(8) < 7})
    del gates
    pruner(model, SepPruneImportance()).step()
    assert sizes(model) == [7, 3, 1]


def test_masks_are_read_when_the_pruner_steps() -> None:
    model = chain()
    gates = halved(model)
    made = pruner(model, gates)
    gates.load_masks({"one": torch.arange(8) < 7})
    made.step()
    assert sizes(model) == [7, 3, 1]


def test_scores_are_read_when_the_pruner_steps() -> None:
    model, dense = chain(), chain()
    gates = gates_of(model)
    gates.learned = True
    made = pruner(model, gates, 0.5)
    gates.scores = torch.arange(14.0)
    made.step()
    assert torch.equal(model.one.weight, dense.one.weight[4:])


# -- another model --------------------------------------------------------------------------------


def test_a_model_of_another_width_is_refused() -> None:
    gates = halved(chain())
    with pytest.raises(InputError, match="'two' has 5 output channels in this Chain, the gates "):
        pruner(chain(8, 5), gates)
    with pytest.raises(InputError, match="'one' has 9 output channels in this Chain, the gates "):
        importance = SepPruneImportance(gates)
        tp.pruner.MetaPruner(chain(9), X.double(), importance, pruning_ratio=0.5)


def test_a_model_with_other_names_is_refused() -> None:
    wrapped = nn.Sequential(chain())
    with pytest.raises(InputError, match="scores of 'one', which is not a layer of this Seq"):
        pruner(wrapped, halved(chain()))


def test_a_model_that_was_cut_elsewhere_is_refused() -> None:
    gates, model = halved(chain()), chain()
    tp.prune_conv_out_channels(model.one, [0, 1])
    tp.prune_conv_in_channels(model.two, [0, 1])
    with pytest.raises(InputError, match="'one' has 6 output channels in this Chain, the gates kn"):
        pruner(model, gates)


class Skip(nn.Module):
    """Two layers of one width that are read one after the other, or added."""

    def __init__(self, added: bool) -> None:
        super().__init__()
        self.added = added
        self.one, self.two = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 8, 1)
        self.three = nn.Conv1d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x)
        z = self.two(y.relu())
        out: torch.Tensor = self.three(y + z if self.added else z)
        return out


@pytest.mark.parametrize("added", [True, False])
def test_a_model_with_other_couplings_is_refused(added: bool) -> None:
    gates = halved(Skip(not added).double())
    message = "'two' and 'one' are coupled in another way in this Skip"
    with pytest.raises(InputError, match=message):
        pruner(Skip(added).double(), gates)
    graph = ChannelGraph("all").build_dependency(Skip(added).double(), X.double())
    with pytest.raises(InputError, match=message):
        SepPruneImportance(gates)(next(graph.get_all_groups()))
    pruner(Skip(not added).double(), gates).step()


# -- the module that was gated --------------------------------------------------------------------


def test_a_layer_that_was_replaced_is_refused() -> None:
    model = chain()
    gates = halved(model)
    kept = model.two
    model.two = nn.Conv1d(8, 6, 3).double()
    with pytest.raises(InputError, match="'two' is another Conv1d since these gates were made"):
        gates.__enter__()
    assert all("forward" not in module.__dict__ for module in model.modules())
    model.two = kept
    assert outputs_alike(gates, pruned(model, gates), X.double())


def test_new_weights_in_the_same_layers_are_fine() -> None:
    model = chain()
    gates = halved(model)
    other = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    model.load_state_dict(other)
    assert outputs_alike(gates, pruned(model, gates), X.double())


def test_layers_that_changed_places_are_refused() -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 1), nn.ReLU())
    model.append(nn.Conv1d(4, 1, 1))
    gates = gates_of(model)
    model[1], model[2] = model[2], model[1]
    with pytest.raises(InputError, match="'1' is another Conv1d"):
        gates.__enter__()


def test_a_layer_that_is_gone_is_refused_and_a_new_one_is_not() -> None:
    model = chain()
    gates = halved(model)
    model.extra = nn.Linear(3, 3)
    with gates:
        model(X.double())
    model.relu = None
    model.one, gone = nn.Identity(), model.one
    with pytest.raises(InputError, match="'one' is another Identity"):
        gates.__enter__()
    del model.one
    with pytest.raises(InputError, match="'one' is gone since these gates were made"):
        gates.__enter__()
    assert gone.out_channels == 8


# -- gates that are on ----------------------------------------------------------------------------


def test_two_gate_sets_are_not_on_in_one_model() -> None:
    model, x = chain(), X.double()
    first, second = halved(model), gates_of(model)
    with first, torch.no_grad():
        gated = model(x)
        with pytest.raises(InputError, match="cannot turn on these gates: this Chain is running"):
            second.__enter__()
        assert torch.equal(model(x), gated)
        with first:  # the same ones, nested, are fine
            assert torch.equal(model(x), gated)
        assert torch.equal(model(x), gated)
    with second, torch.no_grad():
        assert not torch.allclose(model(x), gated)
    with halved(chain()), second:  # another model's may be on
        pass


def test_gates_of_a_part_are_gates_of_the_model() -> None:
    model = nn.Sequential(chain())
    whole, part = halved(model), halved(model[0])
    with part, pytest.raises(InputError, match="cannot turn on these gates"):
        whole.__enter__()


def test_no_gates_are_made_and_nothing_is_pruned_while_gates_are_on() -> None:
    model = chain()
    gates = halved(model)
    made = pruner(model, gates)
    theirs = tp.pruner.MetaPruner(model, X.double(), SepPruneImportance(gates), pruning_ratio=0.5)
    with gates:
        with pytest.raises(InputError, match="cannot make gates: this Chain is running with gates"):
            gates_of(model)
        with pytest.raises(InputError, match="cannot make a pruner"):
            pruner(model, gates)
        for one in (made, theirs):
            with pytest.raises(InputError, match="cannot prune: this Chain is running with gates"):
                one.step()
        copied = pruned(model, gates)  # a copy is not gated
    assert sizes(model) == [8, 6, 1] and sizes(copied) == [4, 3, 1]
    made.step()
    assert sizes(model) == [4, 3, 1]


# -- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copied_gates_act_on_the_copied_model(way: str) -> None:
    model, x = chain(), X.double()
    gates = halved(model)
    gates.scores = torch.arange(14.0)
    twin = copy.deepcopy(gates) if way == "deepcopy" else pickle.loads(pickle.dumps(gates))
    assert twin.model is not model and torch.equal(twin.scores, gates.scores)
    assert torch.equal(twin.keep, gates.keep) and twin.learned
    gates.load_masks({"one": torch.ones(8, dtype=torch.bool)})
    with torch.no_grad(), twin:
        assert torch.equal(model(x), chain()(x))  # the original is not gated
    assert outputs_alike(twin, pruned(twin.model, twin), x)
    assert sizes(pruned(twin.model, twin)) == [4, 3, 1] != sizes(pruned(model, gates))


def test_model_and_gates_that_are_copied_together_stay_together() -> None:
    model = chain()
    importance = SepPruneImportance(halved(model, scope=[model.one]))
    twin, its = copy.deepcopy((model, importance))
    assert its.gates.model is twin and its.gates.scope == [twin.one]
    SepPrunePruner(twin, X.double(), its).step()
    assert (sizes(twin), sizes(model)) == ([4, 6, 1], [8, 6, 1])


def test_a_copied_generator_draws_the_same() -> None:
    gates = gates_of(chain())
    gates.model.train()
    twin = copy.deepcopy(gates)
    for one in (gates, twin):
        one.scores = torch.zeros(14)
    with torch.no_grad(), gates, twin:
        assert torch.equal(gates.model(X.double()), twin.model(X.double()))


def test_gates_that_are_on_are_not_copied() -> None:
    gates = halved(chain())
    with gates, pytest.raises(InputError, match="gates that are on cannot be copied or pickled"):
        copy.deepcopy(gates)


def test_gates_of_a_pruned_model_are_not_copied_with_it() -> None:
    gates = halved(chain())
    pruner(gates.model, gates).step()
    with pytest.raises(InputError, match="the model was pruned since"):
        pickle.dumps(gates)


def test_a_shallow_copy_has_masks_of_its_own() -> None:
    gates = halved(chain())
    twin = copy.copy(gates)
    twin.set_keep(torch.ones(14, dtype=torch.bool))
    twin.scores = torch.zeros(14)
    assert int(gates.keep.sum()) == 7 and twin.model is gates.model
    assert not torch.equal(gates.scores, twin.scores)


def test_a_pruner_says_why_it_is_not_copied() -> None:
    made = pruner(chain(), halved(chain()))
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="a pruner cannot be copied or pickled: it holds"):
            way(made)
    assert isinstance(made.importance.gates, GateSet)
