"""Distillation: zero effort where the student is the teacher, and it teaches where it is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import SEPARATORS, randomised
from laws import example, keep_by, mixture, pruned_with_kept
from torch import Tensor, nn

from sepprune_tp.distillation import Distillation
from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import Budget, learn_gates

NAME = "ConvTasNet-gLN"
BLOCK = "masker.TCN.0.shared_block.0"  # its outputs are gated


def dense() -> nn.Module:
    return randomised(SEPARATORS[NAME], 0, torch.float32)


def some_batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(example(NAME, 2, 400, seed=i), mixture(2, 2, 400, seed=9 + i)) for i in range(count)]


def taken(loss: Distillation, model: nn.Module, x: Tensor, sources: Tensor) -> Tensor:
    loss.begin(x, model)
    return loss(model(x), sources)


class TestLoss:
    def test_the_teacher_itself_reaches_the_floor(self) -> None:
        model = dense()
        x, sources = some_batches()[0]
        loss = Distillation(model, task_weight=0, waveform=1.0, features=["masker", "encoder"])
        value = taken(loss, model, x, sources)
        assert value.item() == pytest.approx(-90, abs=0.1), "-30 dB each"

    def test_terms_add_up(self) -> None:
        teacher, student = dense(), randomised(SEPARATORS[NAME], 5, torch.float32)
        x, sources = some_batches()[0]
        terms = [
            Distillation(teacher, waveform=0),
            Distillation(teacher, task_weight=0),
            Distillation(teacher, task_weight=0, waveform=0, features=["masker"]),
        ]
        task, wave, masks = (taken(loss, student, x, sources).item() for loss in terms)
        assert task == pytest.approx(pit_neg_si_sdr(student(x), sources).item(), abs=1e-5)
        both = Distillation(teacher, task_weight=0.5, waveform=2.0, features={"masker": 3.0})
        expected = 0.5 * task + 2 * wave + 3 * masks
        assert taken(both, student, x, sources).item() == pytest.approx(expected, abs=1e-4)
        assert wave > -29 and masks > -29, "the negative control: another model"

    def test_is_si_sdr_where_it_is_low(self) -> None:
        student = randomised(SEPARATORS[NAME], 5, torch.float32)
        x, sources = some_batches()[0]
        wave = taken(Distillation(dense(), task_weight=0), student, x, sources)
        from sepprune_tp.losses import si_sdr

        assert wave.item() == pytest.approx(-si_sdr(student(x), dense()(x)).mean().item(), abs=0.2)

    def test_order_counts_unless_aligned(self) -> None:
        class Swapped(nn.Module):
            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Tensor) -> Tensor:
                found: Tensor = self.model(x).flip(1)
                return found

        model = dense()
        x, sources = some_batches()[0]
        fixed = Distillation(model, task_weight=0)
        aligned = Distillation(model, task_weight=0, align=True)
        assert taken(fixed, Swapped(model), x, sources) > -25
        assert taken(aligned, Swapped(model), x, sources) < -29.9

    def test_teacher_gets_no_gradient_and_keeps_its_mode(self) -> None:
        teacher, student = dense().train(), randomised(SEPARATORS[NAME], 5, torch.float32)
        x, sources = some_batches()[0]
        taken(Distillation(teacher, features=["masker"]), student, x, sources).backward()
        assert all(p.grad is None for p in teacher.parameters()) and teacher.training
        assert sum(p.grad is None for p in student.parameters()) == 2, "an output nobody reads"
        assert not any(m._forward_hooks for net in (teacher, student) for m in net.modules())

    def test_cache_spares_the_teacher(self) -> None:
        teacher, calls = dense(), []
        teacher.register_forward_hook(lambda *_: calls.append(1))
        student = randomised(SEPARATORS[NAME], 5, torch.float32)
        pairs = some_batches(3)
        for cache, runs in ((0, 6), (3, 3), (2, 6)):  # two: gone before it is needed again
            calls.clear()
            loss = Distillation(teacher, cache=cache)
            first, second = (
                [taken(loss, student, *pair).item() for pair in pairs] for _ in range(2)
            )
            assert first == second and len(calls) == runs

    def test_kept_channels_of_a_pruned_layer(self) -> None:
        model, student, kept = pruned_with_kept(NAME, dtype=torch.float32)
        x, sources = some_batches()[0]
        only = {"task_weight": 0.0, "waveform": 0.0, "features": [BLOCK]}
        loss = Distillation(model, **only, kept=kept)  # type: ignore[arg-type]
        value = taken(loss, student, x, sources)
        loss.begin(x, student)
        assert loss._target is not None
        one, other = loss._target.features[BLOCK], student.get_submodule(BLOCK)
        assert one.shape[1] == other.out_channels < model.get_submodule(BLOCK).out_channels
        assert -30 <= value.item() < 10
        with pytest.raises(InputError, match="give kept=KeptChannels"):
            taken(Distillation(model, **only), student, x, sources)  # type: ignore[arg-type]

    def test_refuses_what_cannot_be(self) -> None:
        model = dense()
        x, sources = some_batches()[0]
        with pytest.raises(InputError, match="has no layer called nowhere"):
            Distillation(model, features=["nowhere"]).begin(x, model)
        with pytest.raises(InputError, match="call begin"):
            Distillation(model)(sources, sources)
        for weights in ({"task_weight": -1.0}, {"task_weight": 0.0, "waveform": 0.0}):
            with pytest.raises(InputError, match="above 0"):
                Distillation(model, **weights)  # type: ignore[arg-type]


class TestSearch:
    def test_the_open_model_teaches_the_gated_one(self) -> None:
        model = dense()
        gates = GateSet(model, example(NAME))
        only = {"task_weight": 0.0, "waveform": 1.0}
        pairs = some_batches()
        own = Distillation(features=[BLOCK, "masker"], kept=gates, **only)  # type: ignore[arg-type]
        options: dict[str, Any] = {"budget": Budget(macs=0.6), "steps": 20, "progress": False}
        result = learn_gates(gates, pairs, own, **options)
        masks = gates.masks()
        assert result.history[0]["loss"] == pytest.approx(-90, abs=0.1), "warm-up: all gates open"
        assert result.history[-1]["loss"] > -85, "channels went"
        before = copy.deepcopy(model)
        learn_gates(gates, pairs, Distillation(copy.deepcopy(before), **only), **options)  # type: ignore[arg-type]
        by_copy = gates.masks()
        learn_gates(gates, pairs, Distillation(**only), **options)  # type: ignore[arg-type]
        assert all(torch.equal(by_copy[k], v) for k, v in gates.masks().items()), "no copy needed"
        assert masks.keys() == by_copy.keys()
        assert not any(m._forward_hooks for m in model.modules())

    @pytest.mark.parametrize("of_gates", [True, False])
    @pytest.mark.parametrize("own", [True, False])
    def test_parts_of_attention_are_compared(self, of_gates: bool, own: bool) -> None:
        name, query = "DPTNet", "masker.layers.0.1.mha.query"
        model = randomised(SEPARATORS[name], 0, torch.float32)
        gates = GateSet(model, example(name))
        gates.load_masks(keep_by(gates, "half"))
        pairs = [(example(name, 2), mixture(2, 2, 400))]
        teacher = copy.deepcopy(model) if own else None
        loss = Distillation(
            teacher,
            task_weight=0.0,
            waveform=0.0,
            features=[query],
            kept=gates if of_gates else None,
        )
        assert taken(loss, model, *pairs[0]).item() == pytest.approx(-30, abs=0.01)
        loss.begin(pairs[0][0], model)
        with gates:
            estimates = model(pairs[0][0])
        assert loss(estimates, pairs[0][1]).item() > -20, "closed channels"
        options: dict[str, Any] = {"budget": Budget(macs=0.6), "steps": 20, "progress": False}
        result = learn_gates(gates, pairs, loss, **options)
        assert result.history[0]["loss"] == pytest.approx(-30, abs=0.1), "all gates open"
        assert torch.backends.mha.get_fastpath_enabled()
        assert not any("forward" in vars(module) for module in model.modules())

    def test_closed_channels_do_not_count(self) -> None:
        gates = GateSet(dense(), example(NAME))
        x, sources = some_batches()[0]
        loss = Distillation(task_weight=0, waveform=0, features=[BLOCK], kept=gates)
        values = torch.ones(len(gates))
        with gates, torch.no_grad():
            gates.use(values)
            loss.begin(x, gates.model)
            bias = gates.model.get_submodule(BLOCK).bias
            bias[0] += 100.0
            spoiled = loss(gates.model(x), sources)
            values[gates.table.columns[BLOCK][0]] = 0
            bias[0] -= 100.0
            gates.use(torch.ones(len(gates)))
            loss.begin(x, gates.model)
            bias[0] += 100.0
            gates.use(values)
            assert loss(gates.model(x), sources) < -29.9 < spoiled


class TestFinetune:
    def test_a_student_nears_its_teacher_without_sources(self) -> None:
        pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
        from sepprune_tp.recovery import finetune

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teacher = nn.Sequential(nn.Conv1d(1, 4, 9, padding=4), nn.Conv1d(4, 2, 9, padding=4))
            pairs = [(x[:, None], torch.randn_like(s)) for x, s in some_batches()]
        student = copy.deepcopy(teacher)
        with torch.no_grad():
            student[0].weight += 0.2 * mixture(*student[0].weight.shape)
        loss = Distillation(teacher, task_weight=0.0, features=["0"])
        before = taken(loss, student, *pairs[0]).item()
        frozen = copy.deepcopy(teacher.state_dict())
        result = finetune(student, pairs, pairs, loss=loss, steps=30, lr=3e-3, progress=False,
                          accelerator="cpu", val_every=10)  # fmt: skip
        last = taken(loss, student, *pairs[0]).item()
        assert all(torch.equal(frozen[k], v) for k, v in teacher.state_dict().items())
        first = result.history[0]
        assert first["val_loss"] == pytest.approx(-first["si_sdr"]), "compared by the task"
        trained = [record["train_loss"] for record in result.history[1:]]
        assert trained[-1] < trained[0] < 0 and before > trained[-1]
        assert last <= before, "the weights are those that did best on the task"

    def test_refuses_a_search_without_a_teacher_and_hidden_layers(self) -> None:
        pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
        from sepprune_tp.recovery import finetune

        pairs = some_batches()
        with pytest.raises(InputError, match="give the dense model"):
            finetune(dense(), pairs, pairs, loss=Distillation(), steps=1)
        with pytest.raises(InputError, match="compile=True hides"):
            loss = Distillation(dense(), features=["masker"])
            finetune(dense(), pairs, pairs, loss=loss, steps=1, compile=True)
