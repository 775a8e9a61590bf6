"""Gates that look ahead: a closed channel is guessed from the open ones, as reconstruction will."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from architectures import SEPARATORS, randomised, shape_of
from torch import Tensor, nn

from sepprune_tp import Budget, GateSet, SepPruneImportance, SepPrunePruner, learn_gates
from sepprune_tp.errors import InputError
from sepprune_tp.gates.lookahead import Lookahead, guess
from sepprune_tp.layers.base import masked

NAMES = ["ConvTasNet-gLN", "DPRNNTasNet-LSTM-bi", "SuDORMRFImprovedNet", "DPTNet"]


def moments_of(x: Tensor) -> Tensor:
    """Of rows x (n, C)."""
    return x.T @ x / len(x)


def correlated(rows: int = 400, channels: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(3, channels, generator=generator, dtype=torch.float64)
    own = 0.3 * torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64) @ mixing + own


def test_open_gates_read_what_is_there() -> None:
    found = guess(moments_of(correlated()), torch.ones(6, dtype=torch.float64), 1e-2)
    assert torch.equal(found, torch.eye(6, dtype=torch.float64))


def test_closed_channels_are_regressed_on_open_ones() -> None:
    x = correlated()
    gates = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    found = guess(moments_of(x), gates, 1e-12)
    opened, closed = gates.bool(), ~gates.bool()
    wanted = torch.linalg.lstsq(x[:, opened], x[:, closed]).solution
    assert torch.allclose(found[closed][:, opened], wanted.T, atol=1e-6)
    assert torch.equal(found[opened], torch.eye(6, dtype=torch.float64)[opened])
    assert (found[:, closed] == 0).all()  # what is closed is not read
    zeros = torch.diag(gates)
    error, plain = (x @ (torch.eye(6) - m).T.double() for m in (found, zeros))
    assert error.square().sum() < 0.5 * plain.square().sum()


def test_half_open_gates_are_not_undone_by_a_gain() -> None:
    """Channels that say nothing of each other: what is guessed of one grows with its own gate."""
    gates = torch.tensor([0.05, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = guess(torch.diag(torch.tensor([1.0, 4.0, 0.1, 2.0]).double()), gates, 1e-12)
    assert torch.allclose(found, torch.diag(gates * (2 - gates)), atol=1e-9)


def test_gradients_are_those_of_the_formula() -> None:
    moments = moments_of(correlated())
    gates = torch.tensor([0.3, 0.9, 0.5, 0.7, 0.2, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: guess(moments, g, 1e-2), (gates,))


@pytest.mark.parametrize("name", NAMES)
def test_hard_gates_are_the_pruned_model_with_mixed_weights(name: str) -> None:
    model = randomised(SEPARATORS[name], 0, torch.float64).eval()
    x = torch.randn(shape_of(name, 2, 600), generator=torch.Generator().manual_seed(1)).double()
    gates = GateSet(model, x)
    ahead = gates.look_ahead()
    with gates, torch.no_grad(), ahead.observing():
        model(x)
    generator = torch.Generator().manual_seed(2)
    keep = torch.rand(len(gates), generator=generator) < 0.6
    keep[[g.start for g in gates.groups]] = True
    gates.set_keep(keep)
    gates.lookahead = ahead
    with gates, torch.no_grad():
        seen = model(x)
        values = torch.cat([keep.to(gates.scores), torch.ones(1).to(gates.scores)])
        matrices = {
            gates.graph.name_of(layer.module): ahead.reading(layer, values)
            for layer in gates._layers
        }
    pruned, plain = copy.deepcopy(model), copy.deepcopy(model)
    changed = 0
    for path, matrix in matrices.items():
        if matrix is not None:
            changed += 1
            layer = pruned.get_submodule(path)
            names = ["weight"]
            if isinstance(layer, nn.RNNBase):
                names = [n for n, _ in layer.named_parameters() if n.startswith("weight_ih_l0")]
            for each in names:
                weight = getattr(layer, each)
                weight.data = masked(weight.data, matrix.double(), 1)
    assert changed >= 2
    for cut in (pruned, plain):
        SepPrunePruner(cut, x, importance=SepPruneImportance(gates)).step()
    with torch.no_grad():
        assert (pruned(x) - seen).abs().max() <= 1e-6 * seen.abs().max()
        assert (plain(x) - seen).abs().max() > 1e-3 * seen.abs().max()  # the mixing did matter


class Doubled(nn.Module):
    """Three hidden channels for what matters most (two of them equal), one for what matters less.

    ``(B, T) -> (B, 2, T)``: one source below, one above the mean of neighbours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 2, 1, bias=False)
        self.masker = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 2, 1))
        self.decoder = nn.Conv1d(2, 2, 1, bias=False)
        with torch.no_grad():
            for layer in (self.encoder, *self.masker, self.decoder):
                layer.weight.zero_()
                if layer.bias is not None:
                    layer.bias.zero_()
            self.encoder.weight[:, 0, 0] = torch.tensor([1.0, 1.0])
            first, last = self.masker[0].weight, self.masker[1].weight
            first[0, 0] = first[1, 0] = torch.tensor([0.0, 1.0, 0.0])
            first[2, 0] = torch.tensor([1.0, 0.0, 0.0])
            first[3, 0] = torch.tensor([0.0, 0.0, 0.4])
            last[0, :, 0] = torch.tensor([1.0, 1.0, 0.0, 1.0])
            last[1, :, 0] = torch.tensor([0.0, 0.0, 1.0, 0.0])
            self.decoder.weight[:, :, 0] = torch.eye(2)

    def forward(self, mixture: Tensor) -> Tensor:
        return self.decoder(self.masker(self.encoder(mixture[:, None])))


def test_of_two_equal_channels_one_is_enough() -> None:
    model = Doubled()
    generator = torch.Generator().manual_seed(0)
    mixtures = torch.randn(60, 4, 50, generator=generator)
    given = [(x, model(x).detach()) for x in mixtures]

    def error(estimates: Tensor, sources: Tensor) -> Tensor:
        return 10 * (estimates - sources).square().mean()

    kept = {}
    for lookahead in (False, True):
        gates = GateSet(model, mixtures[0], scope=[model.masker[0]])
        budget = Budget(macs=0.8, of="separator")
        learn_gates(gates, given, error, budget, steps=60, progress=False, lookahead=lookahead)
        (kept[lookahead],) = gates.masks().values()
        assert int(kept[lookahead].sum()) == 3
    assert kept[False].tolist() == [True, True, True, False]
    assert kept[True][:2].sum() == 1
    assert kept[True][2:].all()


def test_the_search_leaves_nothing_behind_and_resumes(tmp_path: Path) -> None:
    model = Doubled()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    given = [(x, model(x).detach())]
    budget = Budget(macs=0.8, of="separator")

    def learned(steps: int, **options: object) -> GateSet:
        gates = GateSet(model, x, scope=[model.masker[0]])
        learn_gates(gates, given * steps, budget=budget, steps=40, progress=False, lookahead=True,
                    **options)  # type: ignore[arg-type]  # fmt: skip
        return gates

    whole = learned(40)
    assert whole.lookahead is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    path = tmp_path / "search.pt"

    class Killed(Exception):
        pass

    def batches():  # type: ignore[no-untyped-def]
        for step in range(40):
            if step == 25:
                raise Killed
            yield given[0]

    gates = GateSet(model, x, scope=[model.masker[0]])
    options = {"budget": budget, "steps": 40, "progress": False, "lookahead": True}
    with pytest.raises(Killed):
        learn_gates(gates, batches(), checkpoint=path, checkpoint_every=10, **options)  # type: ignore[arg-type]
    assert gates.lookahead is None
    resumed = learned(40, checkpoint=path)
    assert torch.equal(resumed.scores, whole.scores)


def test_the_published_rule_does_not_look_ahead() -> None:
    x = torch.randn(1, 50)
    gates = GateSet(Doubled(), x, scope="all", kind="gumbel")
    with pytest.raises(InputError, match="only kind='budget' looks ahead"):
        learn_gates(gates, [(x, torch.randn(1, 2, 50))], lookahead=True)


def test_readers_of_one_tensor_share_what_is_seen() -> None:
    model = randomised(SEPARATORS["ConvTasNet-gLN"], 0, torch.float32).eval()
    x = torch.randn(shape_of("ConvTasNet-gLN", 1, 600))
    gates = GateSet(model, x)
    ahead = gates.look_ahead()
    assert isinstance(ahead, Lookahead)
    with gates, torch.no_grad(), ahead.observing():
        model(x)
    readers = sum(layer.rule.mixes(layer.module) for layer in gates._layers)
    assert 0 < len(ahead.moments) < readers
