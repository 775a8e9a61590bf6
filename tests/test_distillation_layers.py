"""Distillation of the layers that lost inputs: these and no others, on every architecture."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import SEPARATORS, randomised
from laws import example, mixture, pruned_with_kept
from torch import Tensor, nn

from sepprune_tp.distillation import Distillation
from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet
from sepprune_tp.graph.kept import KeptChannels
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.composite import named_layers
from sepprune_tp.search import Budget, learn_gates

NAME = "ConvTasNet-gLN"
ONLY = {"task_weight": 0.0, "waveform": 0.0}


def pruned(name: str) -> tuple[nn.Module, nn.Module, KeptChannels]:
    return pruned_with_kept(name, dtype=torch.float32)


def read_less(dense: nn.Module, student: nn.Module) -> set[str]:
    """Layers with fewer inputs than in the dense model, by their own shapes."""
    others, found = dict(named_layers(student)), set()
    for name, layer in named_layers(dense):
        rule = rule_of(layer)
        if rule is not None and rule.relation == "maps" and name in others:
            own = rule_of(others[name]) or rule
            if own.n_in(others[name]) < rule.n_in(layer):
                found.add(name)
    return found


def taken(loss: Distillation, model: nn.Module, x: Tensor) -> Tensor:
    loss.begin(x, model)
    estimates = model(x)
    return loss(estimates, torch.zeros_like(estimates))


@pytest.mark.parametrize("name", SEPARATORS)
def test_layers_that_read_less_are_taught(name: str) -> None:
    dense, student, kept = pruned(name)
    x, names = example(name), read_less(dense, student)
    loss = Distillation(dense, **ONLY, layers=4.0, kept=kept)  # type: ignore[arg-type]
    value = taken(loss, student, x)
    share = dict.fromkeys(sorted(names), 4.0 / len(names))
    named = Distillation(dense, **ONLY, features=share, kept=kept)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(taken(named, student, x).item(), rel=1e-5)
    assert -119 < value.item() < 40, "a pruned model is not its teacher"
    value.backward()
    layers, held = dict(named_layers(student)), 0
    for each in sorted(names):
        rule = rule_of(layers[each])
        assert rule is not None
        gradients = [p.grad for p in rule.parameters(layers[each])]
        held += len(gradients)  # a part of attention has no parameters of its own
        assert not gradients or any(g is not None and g.abs().max() > 0 for g in gradients), each
    assert held and torch.backends.mha.get_fastpath_enabled()
    hosts = (m for net in (dense, student) for m in net.modules())
    assert not any(m._forward_hooks or "forward" in vars(m) for m in hosts)


def test_only_hosts_of_compared_parts_run_part_by_part() -> None:
    model = randomised(SEPARATORS["DPTNet"], 0, torch.float32)
    host = "masker.layers.0.1.mha"
    for names, slower in ((["masker", "encoder"], set()), ([f"{host}.query"], {host})):
        loss = Distillation(model, **ONLY, features=names)  # type: ignore[arg-type]
        loss.begin(example("DPTNet"), model)
        found = {name for name, module in model.named_modules() if "forward" in vars(module)}
        estimates = model(example("DPTNet"))
        assert loss(estimates, estimates) < -29 and found == slower


@pytest.mark.parametrize("run", ["search", "recovery", "own"])
def test_a_model_that_fails_is_left_as_it_was(run: str) -> None:
    model = randomised(SEPARATORS["DPTNet"], 0, torch.float32)
    teacher = copy.deepcopy(model)
    loss = Distillation(teacher, **ONLY, features=["masker.layers.0.1.mha.query"])  # type: ignore[arg-type]
    pairs = [(example("DPTNet"), mixture(1, 2, example("DPTNet").shape[-1]))]
    heard: list[bool] = []

    def fail(*_: Any) -> None:
        heard.append(any("forward" in vars(module) for module in model.modules()))
        if torch.is_grad_enabled() or run != "recovery":  # validation comes first, and works
            raise RuntimeError("out of memory")

    gates = GateSet(model, pairs[0][0])
    failing = model.decoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        if run == "search":
            learn_gates(gates, pairs, loss, Budget(macs=0.6), steps=4, progress=False)
        elif run == "recovery":
            pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
            from sepprune_tp.recovery import finetune

            finetune(model, pairs, pairs, loss=loss, steps=2, progress=False, accelerator="cpu")
        else:
            loss.begin(pairs[0][0], model)
            model(pairs[0][0])
    assert heard[-1], "the negative control: it was listening"
    failing.remove()
    if run == "own":
        loss.end()
    hosts = [module for net in (model, teacher) for module in net.modules()]
    assert not any(m._forward_hooks or "forward" in vars(m) for m in hosts)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(InputError, match="call begin"):
        loss(pairs[0][1], pairs[0][1])


def test_what_is_named_keeps_its_weight() -> None:
    dense, student, kept = pruned(NAME)
    name = next(iter(read_less(dense, student)))
    x = example(NAME)
    loss = Distillation(dense, **ONLY, layers=1.0, features={name: 5.0}, kept=kept)  # type: ignore[arg-type]
    taken(loss, student, x)
    rest = read_less(dense, student) - {name}
    assert loss._compared == {name: 5.0} | dict.fromkeys(rest, 1.0 / len(rest))
    assert loss.features == {name: 5.0}


def test_a_student_nears_its_teacher_layer_by_layer() -> None:
    dense, student, kept = pruned(NAME)
    loss = Distillation(dense, layers=4.0, kept=kept)
    x, sources = example(NAME), mixture(1, 2, example(NAME).shape[-1], seed=3)
    before = loss.identity()
    steps = torch.optim.Adam(student.parameters(), 1e-3)
    values = []
    for _ in range(20):
        loss.begin(x, student)
        value = loss(student(x), sources)
        steps.zero_grad()
        value.backward()
        steps.step()
        values.append(value.item())
    assert values[-1] < values[0] - 1
    assert loss.identity() == before, "a run that goes on is known again"
    assert before != Distillation(dense, layers=3.0, kept=kept).identity()


def test_refuses_what_compares_nothing() -> None:
    dense, student, kept = pruned(NAME)
    gates = GateSet(randomised(SEPARATORS[NAME], 0, torch.float32), example(NAME))
    for teacher, which in ((None, kept), (dense, None), (dense, gates)):
        with pytest.raises(InputError, match="give it as teacher, and kept=KeptChannels"):
            Distillation(teacher, layers=1.0, kept=which)
    with pytest.raises(InputError, match="none may be negative"):
        Distillation(dense, layers=-1.0, kept=kept)
    late = Distillation(dense, layers=1.0, kept=KeptChannels(student))
    with pytest.raises(InputError, match="of the model before it is pruned"):
        late.begin(example(NAME), student)
    with pytest.raises(InputError, match="those that lost inputs"):
        Distillation(dense, layers=1.0, kept=kept).check_training(compiled=True)
