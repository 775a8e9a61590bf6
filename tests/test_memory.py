"""Peak memory: measured as it is, predicted, and held to by a budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("asteroid", reason="the separators need the extra 'asteroid'")

from laws import example, gated

from sepprune_tp.errors import InputError
from sepprune_tp.measure.memory import measure_memory
from sepprune_tp.pruner import pruned_copy
from sepprune_tp.search import Budget, masks_for


@pytest.mark.parametrize(
    ("name", "share"),
    [("ConvTasNet-gLN", 0.7), ("DPRNNTasNet-LSTM-bi", 0.5), ("SuDORMRFImprovedNet", 0.9)],
)
def test_memory_budgets_are_met_by_the_pruned_model(name: str, share: float) -> None:
    gates = gated(name, "all")
    gates.scores = torch.randn(len(gates), generator=torch.Generator().manual_seed(0))
    masks = masks_for(gates, Budget(memory=share))
    keep = torch.cat([masks[group.name] for group in gates.groups])
    found = measure_memory(pruned_copy(gates, keep), example(name)).peak
    dense = measure_memory(gates.model, example(name)).peak
    assert 0.97 * share * dense <= found <= share * dense


def test_memory_is_predicted_from_the_dense_peak() -> None:
    gates = gated("ConvTasNet-gLN", "all")
    resource = gates.resource("memory")
    dense = measure_memory(gates.model, example("ConvTasNet-gLN")).peak
    ones = torch.ones(len(gates))
    assert resource.dense == dense == resource.exact(ones.bool())
    assert float(resource.expected(ones)) == pytest.approx(dense)
    probability = torch.full((len(gates),), 0.5, requires_grad=True)
    resource.expected(probability).backward()
    assert probability.grad is not None and bool((probability.grad >= 0).all())
    assert float(probability.grad.max()) > 0
    half = torch.arange(len(gates)) % 2 == 0
    assert resource.exact(half) == pytest.approx(resource.measured(half), rel=0.02)


class Holding(torch.nn.Module):
    """Three equal tensors in turn, of which ``held`` live to the end."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for _ in range(3):
            x = x + 1
            kept = [*kept, x][-self.held :]
        return kept[0].view(-1)  # a view: no memory of its own


@pytest.mark.parametrize("fake", [True, False])
def test_memory_by_hand(fake: bool) -> None:
    x = torch.zeros(2, 50)  # 400 bytes, held by the caller
    for held, tensors in ((1, 2), (2, 3), (3, 3)):
        found = measure_memory(Holding(held), x, fake=fake)
        assert (found.weights, found.activations) == (0, 400 * (1 + tensors))
        assert found.measured_on == ("fake" if fake else "real")
    layer = torch.nn.Linear(50, 7)
    found = measure_memory(layer, x, fake=fake)
    assert (found.weights, found.activations) == (4 * 357, 400 + 4 * 14)


@pytest.mark.parametrize("name", ["ConvTasNet-gLN", "DPTNet", "FasNetTAC-gLN", "DCCRNet"])
def test_fake_memory_is_real_memory(name: str) -> None:
    model, x = gated(name, "all").model, example(name, time=613)
    fake, real = (measure_memory(model, x, fake=choice) for choice in (True, False))
    assert fake.measured_on == "fake" and real.measured_on == "real"
    assert (fake.weights, fake.activations) == (real.weights, real.activations)
    longer = measure_memory(model, example(name, time=1300), fake=True)
    assert longer.weights == fake.weights and longer.activations > 1.5 * fake.activations


def test_a_model_that_looks_at_values_runs_for_real() -> None:
    class Looking(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum().item() > 0 else x

    assert measure_memory(Looking(), torch.ones(1, 10)).measured_on == "real"
    with pytest.raises(InputError, match=r"Linear cannot run on the example input \(RuntimeError"):
        measure_memory(torch.nn.Linear(3, 3), torch.ones(1, 10))
