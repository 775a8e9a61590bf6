"""The search: bad input is named, what does not matter is found, weights stay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from search_cases import TIME, Separator, batches, gates_of, learn, noise
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from sepprune_tp.errors import CheckpointError, DataError, SearchError
from sepprune_tp.gates import GateSet
from sepprune_tp.importance import SepPruneImportance
from sepprune_tp.pruner import SepPrunePruner
from sepprune_tp.search import Budget, SearchResult, learn_gates
from sepprune_tp.search.selection import select

# -- bad input -----------------------------------------------------------------------------------


def broken(change: Any) -> list[Any]:
    """Good batches, the second of which is changed."""
    good: list[Any] = batches()
    good[1] = change(*good[1])
    return good


def with_nan(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[3] = math.nan
    return tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, s: (with_nan(m), s), "the mixture of batch 1 holds NaN or infinity"),
        (lambda m, s: (m, with_nan(s)), "the sources of batch 1 holds NaN or infinity"),
        (lambda m, s: (m, s * math.inf), "the sources of batch 1 holds NaN or infinity"),
        (lambda m, s: m, r"batch 1 is a Tensor; give pairs \(mixture \(B, T\), sources"),
        (lambda m, s: (m, s, s), r"batch 1 is a tuple; give pairs"),
        (lambda m, s: (m, s[:, 0]), r"sources of shape \(2, 64\); expected \(B, T\) and"),
        (
            lambda m, s: (m[:1], s),
            r"a mixture of shape \(1, 64\) and sources of shape \(2, 2, 64\)",
        ),
        (lambda m, s: (m[:, :-1], s), "batch 1: the mixture has 63 samples, its sources 64"),
    ],
)
def test_bad_batches_are_named(change: Any, message: str) -> None:
    gates = gates_of()
    with pytest.raises(DataError, match=message):
        learn(gates, batches=broken(change))
    assert all("forward" not in m.__dict__ for m in gates.model.modules())


def test_nan_in_weights_names_the_group() -> None:
    model = Separator().eval()
    with torch.no_grad():
        model.masker[3].weight[2, 0, 0] = math.nan
    gates = gates_of(model=model, scope="separator")
    assert [g.name for g in gates.groups] == ["masker.0", "masker.3"]
    message = "loss is not finite at step 0; it first appears in 'masker.3', of group 'masker"
    with pytest.raises(SearchError, match=message):
        learn(gates)
    assert all(p.requires_grad for p in model.parameters())


def test_nan_in_the_loss_is_told_apart() -> None:
    with pytest.raises(SearchError, match="no gated layer gives one, so it arises in the loss"):
        learn(gates_of(), loss=lambda estimates, sources: estimates.sum() * math.nan)


def test_nan_in_a_gradient_names_the_group() -> None:
    def loss(estimates: Tensor, sources: Tensor) -> Tensor:
        return (estimates - estimates.detach()).abs().sum().sqrt()  # 0, with an infinite slope

    with pytest.raises(SearchError, match=r"gradient of the gates of group '\S+' is not finite"):
        learn(gates_of(), loss=loss)


@pytest.mark.parametrize("empty", [[], DataLoader(TensorDataset(noise(3, 4)), 8, drop_last=True)])
def test_no_batches(empty: Any) -> None:
    with pytest.raises(SearchError, match="batches is empty: the search needs at least one"):
        learn(gates_of(), batches=empty)
    with pytest.raises(SearchError, match="batches is empty"):
        learn(gates_of(), batches=iter(()))


def test_batches_of_every_kind() -> None:
    """A list and a loader start over; all give the same search."""
    one = batches(2)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from one

    mixtures, sources = (torch.cat(part) for part in zip(*one, strict=True))
    loader = DataLoader(TensorDataset(mixtures, sources), batch_size=2)
    results = []
    for source in (one, tuple(one), endless(), loader):
        gates = gates_of()
        learn(gates, batches=source, steps=5)
        results.append(gates.scores)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_a_generator_that_ends_too_soon() -> None:
    with pytest.raises(
        SearchError, match="batches ended after 3 of 4 steps and cannot be iterated"
    ):
        learn(gates_of(), batches=(b for b in batches(3)))


def test_mixtures_with_a_channel_axis() -> None:
    class Squeezing(Separator):
        def forward(self, mixture: Tensor) -> Tensor:
            return super().forward(mixture.flatten(1))

    gates = gates_of(model=Squeezing().eval())
    result = learn(gates, batches=[(m[:, None], s) for m, s in batches()])
    assert len(result.history) == 4


# -- what a search gives -------------------------------------------------------------------------


def test_history_and_result() -> None:
    gates = gates_of()
    result = learn(gates, budget=Budget(macs=0.4), steps=40)
    assert isinstance(result, SearchResult) and result.seconds > 0
    assert result.dense == gates.cost_model.dense and result.cost == gates.cost()
    keys = {"loss", "si_sdr", "macs"}
    assert [keys <= set(step) for step in result.history] == [True] * 40
    assert set(result.history[0]) == keys, "the warm-up has no limit"
    last = result.history[-1]
    assert last["macs_limit"] == pytest.approx(0.4) and last["macs_expected"] == last["macs"]
    assert all(math.isfinite(v) for step in result.history for v in step.values())
    assert all(step["loss"] == pytest.approx(-step["si_sdr"], abs=1e-4) for step in result.history)
    assert result.history[0]["macs"] == 1.0
    assert result.history[-1]["macs"] < result.history[5]["macs"] < 1.0  # it is pushed down
    assert gates.learned and not gates.scores.requires_grad
    assert {n: m.shape[0] for n, m in gates.masks().items()} == {
        g.name: g.size for g in gates.groups
    }


def test_any_loss_between_any_shapes() -> None:
    result = learn(
        gates_of(),
        loss=lambda estimates, sources: functional.mse_loss(estimates.sum(1), sources.sum(1)),
    )
    assert len(result.history) == 4


def test_weights_stay_and_receive_no_gradient() -> None:
    model = Separator().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    learn(gates_of(model=model))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_checkpoint_of_another_search(tmp_path: Path) -> None:
    file = tmp_path / "search.pt"
    learn(gates_of(), checkpoint=file, checkpoint_every=2)
    with pytest.raises(CheckpointError, match=r"belongs to another search: .*'seed': 0.*'seed': 1"):
        learn(gates_of(), checkpoint=file, seed=1)
    file.write_bytes(b"nothing of ours")
    with pytest.raises(CheckpointError, match="is not the checkpoint of a search"):
        learn(gates_of(), checkpoint=file)
    assert [p.name for p in tmp_path.iterdir()] == ["search.pt"]  # no temporary file is left


def test_search_inside_the_gates() -> None:
    """The gates may be on already; afterwards they follow the new masks."""
    gates = gates_of()
    x = noise(1, TIME)
    with torch.no_grad(), gates:
        with torch.enable_grad():
            learn(gates, steps=3)
        inside = gates.model(x)
    with torch.no_grad(), gates:
        assert torch.equal(gates.model(x), inside)
    assert not torch.equal(gates.model(x), inside)


# -- it finds what does not matter ---------------------------------------------------------------


def half_useless() -> tuple[nn.Module, Tensor]:
    """A network whose 16 hidden channels are read by half: the weights of the others are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Unflatten(1, (1, TIME)),
            nn.Conv1d(1, 16, 9, padding=4),
            nn.ReLU(),
            nn.Conv1d(16, 2, 9, padding=4),
        ).eval()
        useful = torch.zeros(16, dtype=torch.bool)
        useful[torch.randperm(16)[:8]] = True
        with torch.no_grad():
            model[3].weight[:, ~useful] = 0
    return model, useful


@pytest.mark.parametrize("seed", [0, 1])
def test_search_keeps_the_half_that_matters(seed: int) -> None:
    model, useful = half_useless()
    gates = GateSet(model, noise(1, TIME), "all")
    data = []
    for i in range(5):
        mixture = noise(4, TIME, seed=50 + i)
        with torch.no_grad():
            clean = model(mixture)
        data.append((mixture, clean + 0.1 * clean.std() * noise(*clean.shape, seed=80 + i)))
    learn_gates(gates, data, budget=Budget(macs=0.5), steps=30, seed=seed, progress=False)
    (mask,) = gates.masks().values()
    assert torch.equal(mask, useful)
    chance = select(gates.groups, noise(16, seed=seed), Budget(macs=0.5).limits(gates))
    assert int(chance.sum()) == 8 and not torch.equal(chance, useful)  # masks at random would not


# -- devices and precision -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["budget", "gumbel"])
def test_mixed_precision(kind: str) -> None:
    seen = []

    class Watching(Separator):
        def forward(self, mixture: Tensor) -> Tensor:
            y = super().forward(mixture)
            seen.append(y.dtype)
            return y

    gates = gates_of(kind, model=Watching().eval())
    seen.clear()
    result = learn(gates, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16} and gates.scores.dtype == torch.float32
    assert all(math.isfinite(step["loss"]) for step in result.history)


class Recurrent(Separator):
    """With an LSTM, and a note of whether cuDNN was allowed to run it."""

    def __init__(self, recurrent: bool = True) -> None:
        super().__init__()
        self.after = nn.LSTM(2, 2, batch_first=True) if recurrent else None
        self.allowed: list[bool] = []

    def forward(self, mixture: Tensor) -> Tensor:
        y: Tensor = super().forward(mixture)
        self.allowed.append(torch.backends.cudnn.enabled)
        return y if self.after is None else self.after(y.transpose(1, 2))[0].transpose(1, 2)


@pytest.mark.parametrize("usual", [True, False])
@pytest.mark.parametrize("recurrent", [True, False])
def test_cudnn_has_no_backward_pass_of_recurrent_layers_in_eval_mode(
    recurrent: bool, usual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", usual)
    model = Recurrent(recurrent).eval()
    gates = gates_of(model=model)
    model.allowed.clear()
    learn(gates)
    assert set(model.allowed) == {usual and not recurrent}
    assert torch.backends.cudnn.enabled is usual


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_on_a_gpu(autocast: torch.dtype | None) -> None:
    model = Separator().eval().cuda()
    gates = GateSet(model, noise(1, TIME).cuda(), "all")
    learn(gates, autocast=autocast)
    assert gates.scores.is_cuda and gates.cost().macs <= 0.7 * gates.cost_model.dense.macs
    with torch.no_grad(), gates:
        masked = model(noise(1, TIME).cuda())
    SepPrunePruner(model, noise(1, TIME).cuda(), SepPruneImportance(gates)).step()
    assert torch.allclose(model(noise(1, TIME).cuda()), masked, atol=1e-5)
