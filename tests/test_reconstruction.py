"""Reconstruction: exact where channels are redundant, never worse where they are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning as tp
from architectures import PLAIN, SEPARATORS, randomised
from laws import example, far, mixture, pruned_with_kept
from torch import Tensor, nn

from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.regression import Regression
from sepprune_tp.pruner import SepPrunePruner
from sepprune_tp.recovery import lockstep
from sepprune_tp.recovery.reconstruction import (
    PARTS,
    reconstruct,
    ridge_solution,
    step_and_reconstruct,
)

DOUBLE = torch.float64


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (2, 4, 19)),
    "conv-same": (nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 11)),
    "conv-reflect": (nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 11)),
    "conv-unbatched": (nn.Conv1d(4, 6, 3, bias=False), (4, 11)),
    "conv-grouped": (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 11)),
    "conv-depthwise": (nn.Conv1d(4, 4, 3, groups=4, padding=1), (2, 4, 11)),
    "conv-2d": (nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(1, 0)), (2, 3, 7, 8)),
    "transposed": (nn.ConvTranspose1d(4, 3, 5, stride=2, padding=1), (2, 4, 9)),
    "transposed-rest": (
        nn.ConvTranspose1d(4, 3, 5, stride=3, padding=4, output_padding=2, dilation=2),
        (2, 4, 9),
    ),
    "transposed-2d": (nn.ConvTranspose2d(3, 2, (3, 4), (2, 3), (1, 0)), (2, 3, 5, 4)),
    "linear": (nn.Linear(4, 6), (2, 5, 4)),
    "layer-norm": (nn.LayerNorm(4), (2, 5, 4)),
    "group-norm": (nn.GroupNorm(1, 4), (2, 4, 9)),
    "batch-norm": (nn.BatchNorm1d(4), (2, 4, 9)),
}


def rebuilt(form: Regression, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each stage, what features and weights give, and what the layer gave there."""
    picked, keep = torch.arange(form.rows(x, y)), None
    pairs = []
    for stage in range(form.stages):
        bias, weight = form.bias(stage), form.weight(stage)
        found = form.features(stage, x, y.shape, picked) @ weight.transpose(1, 2)
        found = found if bias is None else found + bias[:, None]
        keep = torch.arange(_outputs(form, y))
        pairs.append((found, form.targets(stage, x, y, picked, keep)))
    return pairs


def _outputs(form: Any, y: Tensor) -> int:
    module = getattr(form, "_module", None)
    if module is None:
        return int(form._weight.shape[1])
    rule = rule_of(module)
    assert rule is not None
    return rule.n_out(module)


class TestRegressions:
    @pytest.mark.parametrize("name", LAYERS)
    def test_features_times_weights_are_the_output(self, name: str) -> None:
        module, shape = LAYERS[name]
        module = copy.deepcopy(module).double().eval()
        for parameter in module.parameters():
            parameter.data += 0.3 * mixture(*parameter.shape, dtype=DOUBLE)
        x = mixture(*shape, dtype=DOUBLE)
        rule = rule_of(module)
        assert rule is not None
        form = rule.regression(module)
        assert form is not None
        with torch.no_grad():
            y = module(x)
            pairs = rebuilt(form, x, y)
        assert sum(target.numel() for _, target in pairs) == y.numel()
        for found, target in pairs:
            assert torch.allclose(found, target, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", LAYERS)
    def test_writing_what_was_read_changes_nothing_and_other_weights_do(self, name: str) -> None:
        module = copy.deepcopy(LAYERS[name][0]).double().eval()
        rule = rule_of(module)
        assert rule is not None
        form = rule.regression(module)
        assert form is not None
        before = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            for stage in range(form.stages):
                form.write(stage, form.weight(stage).clone(), form.bias(stage))
            assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
            form.write(0, form.weight(0) + 1, form.bias(0))
        assert not torch.equal(before["weight"], module.state_dict()["weight"])

    def test_a_decoder_of_filters(self) -> None:
        filterbanks = pytest.importorskip("asteroid_filterbanks")
        decoder = filterbanks.Decoder(filterbanks.FreeFB(6, 8, stride=4)).double()
        x = mixture(2, 3, 6, 7, dtype=DOUBLE)
        form = rule_of(decoder).regression(decoder)  # type: ignore[union-attr]
        assert form is not None
        with torch.no_grad():
            y = decoder(x)
            pairs = rebuilt(form, x, y)
        assert y.shape == (2, 3, 32) and sum(t.numel() for _, t in pairs) == y.numel()
        assert all(torch.allclose(found, target, atol=1e-12) for found, target in pairs)

    def test_weights_that_are_computed_have_none(self) -> None:
        normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 1))
        rule = rule_of(nn.Conv1d(2, 3, 1))
        assert rule is not None and rule.regression(normed) is None

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_recurrent_layers_run_by_layer(self, kind: type[nn.RNNBase]) -> None:
        module: Any = kind(4, 3, num_layers=2, bidirectional=True, batch_first=True).double()
        form: Any = rule_of(module).regression(module)  # type: ignore[union-attr]
        x = mixture(2, 5, 4, dtype=DOUBLE)
        with torch.no_grad():
            y = module(x)[0]
            assert torch.allclose(form._output(x, 2), y, atol=1e-12)
            state = form.features(7, x, y.shape, torch.arange(10))[0].view(2, 5, 3)
        assert form.stages == 8, "two layers x inputs and state x two directions"
        assert torch.allclose(state[:, :-1], y[:, 1:, 3:], atol=1e-12), "backwards: from the right"
        assert not state[:, -1].any()


class TestRidge:
    def test_is_the_minimum(self) -> None:
        x, y = mixture(1, 50, 6, dtype=DOUBLE), mixture(1, 50, 3, seed=1, dtype=DOUBLE)
        weight, bias = torch.zeros(1, 3, 6, dtype=DOUBLE), torch.zeros(1, 3, dtype=DOUBLE)
        found, offset = ridge_solution(x, y, weight, bias, 1e-12)
        ones = torch.cat([x[0], torch.ones(50, 1, dtype=DOUBLE)], 1)
        wanted = torch.linalg.lstsq(ones, y[0]).solution.t()
        assert offset is not None
        assert torch.allclose(torch.cat([found[0], offset[0][:, None]], 1), wanted, atol=1e-8)

    def test_a_strong_penalty_keeps_the_weights(self) -> None:
        x, y = mixture(1, 50, 6, dtype=DOUBLE), mixture(1, 50, 3, seed=1, dtype=DOUBLE)
        weight = mixture(1, 3, 6, seed=2, dtype=DOUBLE)
        near, _ = ridge_solution(x, y, weight, None, 1e6)
        away, _ = ridge_solution(x, y, weight, None, 1e-6)
        assert far(near, weight) < 1e-4 < far(away, weight)

    def test_inputs_that_are_always_zero_do_no_harm(self) -> None:
        weight = mixture(1, 3, 6, dtype=DOUBLE)
        found, _ = ridge_solution(
            torch.zeros(1, 9, 6, dtype=DOUBLE), mixture(1, 9, 3, dtype=DOUBLE), weight, None, 1e-3
        )
        assert torch.equal(found, weight)


class Redundant(nn.Module):
    """Every channel is there twice: half of them can go without loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(1, 8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.second = nn.Conv1d(8, 6, 3, padding=1)
        self.rnn = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 2)
        for name, parameter in self.named_parameters():
            half = parameter.data.view(-1, 2, 4, *parameter.shape[1:]) if "rnn" in name else None
            if half is not None:
                half[:, 1] = half[:, 0]
            elif "first" in name or "norm" in name or "depthwise" in name:
                parameter.data[4:] = parameter.data[:4]
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, 2, T)."""
        x = self.norm(self.first(x[:, None]))
        x = torch.relu(self.second(torch.relu(self.depthwise(x))))
        found: Tensor = self.head(self.rnn(x.transpose(1, 2))[0]).transpose(1, 2)
        return found


class TestReconstruct:
    def test_redundant_channels_are_made_up_for_exactly(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            dense = Redundant()
        pruned = copy.deepcopy(dense)
        kept = KeptChannels(pruned)
        x = mixture(2, 300, dtype=DOUBLE)
        gates = GateSet(pruned, x, scope="all")
        halves = {g.name: torch.arange(8) < 4 for g in gates.groups if g.size == 8}
        assert sorted(halves) == ["first", "rnn"]
        gates.load_masks(halves)
        SepPrunePruner(pruned, x, SepPruneImportance(gates)).step()
        fresh = mixture(3, 500, seed=7, dtype=DOUBLE)
        with torch.no_grad():
            assert far(pruned(fresh), dense(fresh)) > 0.02, "the negative control"
            done = reconstruct(pruned, dense, [x], kept, ridge=1e-12)
            assert far(pruned(fresh), dense(fresh)) < 1e-6
        assert {"second", "rnn", "head"} == {layer.layer for layer in done}
        assert all(layer.before > 1e-3 and layer.after < 1e-8 for layer in done)

    @pytest.mark.parametrize("name", SEPARATORS | PLAIN)
    def test_no_layer_gets_worse(self, name: str) -> None:
        dense, pruned, kept = pruned_with_kept(name)
        x = example(name, 2, 600, seed=3, dtype=DOUBLE)
        done = reconstruct(pruned, dense, [x], kept, parts=["mixing"], ridge=1e-3, samples=400)
        assert done, "something was lost, so something is made up for"
        for layer in done:
            assert layer.after <= layer.before * (1 + 1e-9), layer
        assert sum(d.after for d in done) < 0.9 * sum(d.before for d in done)
        with torch.no_grad():
            assert torch.isfinite(pruned(x)).all()

    @pytest.mark.parametrize("name", SEPARATORS | PLAIN)
    def test_a_model_that_lost_nothing_stays_as_it_is(self, name: str) -> None:
        dense = randomised((SEPARATORS | PLAIN)[name], 0, torch.float32)
        same = copy.deepcopy(dense)
        done = reconstruct(
            same, dense, [example(name, 2)], KeptChannels(same), parts=PARTS, samples=100
        )
        assert done == []
        for key, value in dense.state_dict().items():
            assert torch.equal(value, same.state_dict()[key]), key

    @pytest.mark.parametrize("name", ["ConvTasNet-gLN", "DPRNNTasNet-LSTM-bi"])
    def test_what_the_dense_layers_get_will_do(self, name: str) -> None:
        dense, pruned, kept = pruned_with_kept(name)
        whole = {
            k for k, v in pruned.state_dict().items() if v.shape == dense.state_dict()[k].shape
        }
        before = copy.deepcopy(pruned.state_dict())
        x = example(name, 2, 600, dtype=DOUBLE)
        done = reconstruct(pruned, dense, [x], kept, inputs="dense", ridge=1e-6)
        assert done and all(layer.after <= layer.before for layer in done)
        changed = {k for k, v in pruned.state_dict().items() if not torch.equal(before[k], v)}
        assert changed and "masker.TCN.0.shared_block.2.weight" not in changed
        assert {k for k in changed & whole if k.endswith("weight")} == set()

    def test_parts_choose_what_changes(self) -> None:
        dense, pruned, kept = pruned_with_kept("ConvTasNet-gLN")
        for part, some in (
            ("norm", "masker.TCN.0.shared_block.2.gamma"),
            ("depthwise", "masker.TCN.0.shared_block.3.weight"),
            ("mixing", "masker.TCN.0.res_conv.weight"),
        ):
            copied = copy.deepcopy(pruned)
            x = example("ConvTasNet-gLN", 2, dtype=DOUBLE)
            reconstruct(copied, dense, [x], kept, parts=[part])
            old, new = pruned.state_dict(), copied.state_dict()
            changed = {k for k in old if not torch.equal(old[k], new[k])}
            kinds = {
                "norm": ("gamma", "beta"),
                "depthwise": ("shared_block.3.weight", "shared_block.3.bias"),
            }
            assert some in changed
            if part in kinds:
                assert all(k.endswith(kinds[part]) for k in changed), part

    def test_same_seed_same_weights_and_nothing_else_changes(self) -> None:
        dense, pruned, kept = pruned_with_kept("DPRNNTasNet-GRU-bi")
        x = [(example("DPRNNTasNet-GRU-bi", 2, dtype=DOUBLE), None)]
        models = [copy.deepcopy(pruned) for _ in range(3)]
        before, state = copy.deepcopy(dense.state_dict()), torch.get_rng_state()
        for model, seed in zip(models, (0, 0, 1), strict=True):
            reconstruct(model.train(), dense, x, kept, samples=50, seed=seed)
            assert model.training and not any(m._forward_pre_hooks for m in model.modules())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(before[k], v) for k, v in dense.state_dict().items())
        assert not any(m._forward_hooks for m in dense.modules())
        one, two, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
        assert torch.equal(one, two) and not torch.equal(one, other)

    @pytest.mark.parametrize("inputs", ["pruned", "dense"])
    @pytest.mark.parametrize(
        "name", ["ConvTasNet-gLN", "DPRNNTasNet-LSTM-bi", "DPTNet", "DCCRNet", "DCUNet-pad"]
    )
    def test_layers_that_do_not_fit_at_once_take_turns(
        self, name: str, inputs: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dense, pruned, kept = pruned_with_kept(name)
        x = [example(name, 2, 600, dtype=DOUBLE)]
        found, runs = [], []
        some = 20_000 if inputs == "pruned" else 40_000
        for held in (lockstep._HELD, some, 0):
            monkeypatch.setattr(lockstep, "_HELD", held)
            model, ran = copy.deepcopy(pruned), []
            counter = dense.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
            done = reconstruct(model, dense, x, kept, inputs=inputs, samples=100)
            counter.remove()
            found.append((done, model.state_dict()))
            runs.append(len(ran))
        assert runs[0] == 1 < runs[1] < runs[2], "the negative control"
        (done, weights), *others = found
        for again, given in others:
            assert again == done
            assert all(torch.equal(given[key], value) for key, value in weights.items())
        changed = [k for k, v in pruned.state_dict().items() if not torch.equal(v, weights[k])]
        assert done and changed

    def test_with_the_step_of_any_pruner_on_the_graph(self) -> None:
        dense = randomised(SEPARATORS["SuDORMRFImprovedNet"], 0, DOUBLE)
        x = example("SuDORMRFImprovedNet", 2, dtype=DOUBLE)
        plain, repaired = copy.deepcopy(dense), copy.deepcopy(dense)
        importance = tp.importance.GroupMagnitudeImportance()
        SepPrunePruner(plain, x, importance, pruning_ratio=0.4).step()
        pruner = SepPrunePruner(repaired, x, importance, pruning_ratio=0.4)
        assert step_and_reconstruct(pruner, [x], ridge=1e-3)
        assert [p.shape for p in plain.parameters()] == [p.shape for p in repaired.parameters()]
        with torch.no_grad():
            assert far(repaired(x), dense(x)) < 0.7 * far(plain(x), dense(x))

    def test_a_recurrent_layer_with_a_state_of_its_own_is_left_alone(self) -> None:
        class Stateful(nn.Module):
            def __init__(self, given: bool) -> None:
                super().__init__()
                self.first, self.given = nn.Linear(1, 8), given
                self.rnn, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 1)

            def forward(self, x: Tensor) -> Tensor:
                state = {"hx": torch.ones(1, x.shape[0], self.rnn.hidden_size)}
                y, _ = self.rnn(self.first(x[..., None]), **(state if self.given else {}))
                found: Tensor = self.head(y)
                return found

        for given in (True, False):
            net, x = Stateful(given), mixture(2, 50)
            pruner = SepPrunePruner(
                net, x, tp.importance.GroupMagnitudeImportance(), 0.5, scope=[net.first]
            )
            done = {layer.layer for layer in step_and_reconstruct(pruner, [x])}
            assert ("rnn" in done) != given

    def test_refuses_a_pruner_that_does_not_tell(self) -> None:
        net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 1, 3))
        x, importance = torch.randn(1, 1, 16), tp.importance.GroupMagnitudeImportance()
        pruner = tp.pruner.MetaPruner(net, x, importance, pruning_ratio=0.5)
        with pytest.raises(InputError, match="own graph"):
            step_and_reconstruct(pruner, [x])

    def test_refuses_what_cannot_be(self) -> None:
        dense, pruned, kept = pruned_with_kept("ConvTasNet-gLN")
        x = example("ConvTasNet-gLN", 2, dtype=DOUBLE)
        for options, text in (
            ({"inputs": "both"}, "one of pruned, dense"),
            ({"parts": ["bias"]}, "Unknown parts bias"),
            ({"ridge": 0.0}, "above 0"),
        ):
            with pytest.raises(InputError, match=text):
                reconstruct(pruned, dense, [x], kept, **options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="batches is empty"):
            reconstruct(pruned, dense, [], kept)
        with pytest.raises(InputError, match="differ in length"):
            reconstruct(pruned, dense, [x, x[:, 1:]], kept)
        with pytest.raises(InputError, match="KeptChannels of the dense model before"):
            reconstruct(pruned, dense, [x], KeptChannels(pruned))
