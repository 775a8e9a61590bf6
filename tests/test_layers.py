"""The laws of every layer rule: gated is pruned, counts are exact; and the layers themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import LAYERS, cut, drawn, few, gated, law_rule, made, needs_asteroid
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sepprune_tp.errors import GraphError, InputError
from sepprune_tp.layers import list_rules, register_rule, rule_of
from sepprune_tp.layers.norm import PReLURule
from sepprune_tp.layers.recurrent import RecurrentPruner
from sepprune_tp.profile import profile


@pytest.mark.parametrize("name", LAYERS)
@few
@given(data=st.data())
def test_gated_is_pruned_and_counts_are_exact(name: str, data: st.DataObject) -> None:
    layer, x = made(name)
    rule = law_rule(layer)
    tie_in, tie_out = rule.ties(layer)
    is_filterbank = rule.kind == "filterbank"
    keep_in = drawn(data, rule.n_in(layer), tie_in)
    keep_out = drawn(data, rule.n_out(layer), tie_out)
    if rule.relation == "through":
        keep_out = keep_in
    elif is_filterbank:  # the side of the waveform is not cut
        keep_in = torch.ones_like(keep_in) if rule.n_in(layer) == 1 else keep_in
        keep_out = torch.ones_like(keep_out) if rule.n_out(layer) == 1 else keep_out
    maps = rule.relation == "maps"
    small = cut(layer, rule, keep_in if maps else None, keep_out)
    n_in, n_out = int(keep_in.sum()), int(keep_out.sum())
    if isinstance(small, nn.PReLU) and n_out == 1:  # then it is the slope of every channel
        assert rule_of(small) is None and torch.equal(small.weight, layer.weight[keep_out])
        return
    assert (rule.n_in(small), rule.n_out(small)) == (n_in, n_out)
    assert rule.params(layer, n_in, n_out) == sum(p.numel() for p in small.parameters())

    x_small = x
    if not is_filterbank or rule.n_in(layer) > 1:
        x_small = x.index_select(rule.axis(layer, x), keep_in.nonzero().flatten())
    with torch.no_grad():
        expected = rule.output(small(x_small))
        mask_out = keep_out.double() if rule.remembers(layer) else None
        mask_in = keep_in.double() if rule.reads(layer) or rule.pools_channels(layer) else None
        found = gated(rule, layer, x, mask_in, mask_out)
    if not keep_out.all():
        stays = keep_out[torch.tensor(rule.output_index(layer))].nonzero().flatten()
        found = found.index_select(rule.axis(layer, found), stays)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)

    positions = rule.positions(layer, (x,), layer(x))
    assert positions == rule.positions(small, (x_small,), small(x_small))
    assert rule.macs(layer, positions, n_in, n_out) == profile(small, x_small).macs


@pytest.mark.parametrize("name", LAYERS)
def test_open_gates_are_the_layer_itself(name: str) -> None:
    layer, x = made(name)
    rule = law_rule(layer)
    with torch.no_grad():
        dense = rule.output(layer(x))
        assert torch.equal(gated(rule, layer, x, None), dense)
        ones = torch.ones(rule.n_in(layer), dtype=torch.float64)
        if rule.reads(layer) or rule.pools_channels(layer):
            found = gated(rule, layer, x, ones)
            assert torch.allclose(found, dense, rtol=1e-10, atol=1e-10)
            half = ones * (torch.arange(len(ones)) % 2)
            if rule.n_in(layer) > 1:  # and gates do something
                other = gated(rule, layer, x, half)
                assert not torch.allclose(other, dense, rtol=1e-3, atol=1e-3)
        assert torch.equal(rule.output(layer(x)), dense)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("needs_x", [True, False])
def test_gradients_of_gates_do_not_depend_on_frozen_weights(name: str, needs_x: bool) -> None:
    """With frozen weights some layers take a cheaper way back; gates and input must not notice."""
    layer, x = made(name)
    rule = law_rule(layer)
    if rule.n_in(layer) == 1 or not (rule.reads(layer) or rule.pools_channels(layer)):
        return  # it has no gates on its inputs
    values = torch.linspace(0.1, 1, rule.n_in(layer), dtype=torch.float64)
    results = []
    for frozen in (False, True):
        layer.requires_grad_(not frozen)
        mask = values.clone().requires_grad_()
        inputs = x.clone().requires_grad_(needs_x)
        y = gated(rule, layer, inputs, mask)
        direction = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
        wanted = [mask, inputs] if needs_x else [mask]
        results.append([y, *torch.autograd.grad(y, wanted, direction)])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
        assert float(one.abs().max()) > 1e-6
    step = 1e-6 * torch.randn(len(values), generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():  # and both are right: the slope along one direction
        ends = [(gated(rule, layer, x, values + s * step) * direction).sum() for s in (1, -1)]
    slope = float((ends[0] - ends[1]) / 2)
    assert slope == pytest.approx(float(results[0][1] @ step), rel=1e-5, abs=1e-11)


@pytest.mark.parametrize(
    "name", [n for n in LAYERS if n.startswith(("conv", "trans", "depth", "lin"))]
)
def test_macs_are_what_torch_multiplies(name: str) -> None:
    layer, x = made(name)
    rule = law_rule(layer)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = layer(x)
    macs = rule.macs(layer, rule.positions(layer, (x,), y), rule.n_in(layer), rule.n_out(layer))
    assert 2 * macs == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", LAYERS)
def test_costs_of_tensors_are_those_of_numbers(name: str) -> None:
    layer, x = made(name)
    rule = law_rule(layer)
    n_in, n_out = rule.n_in(layer), rule.n_out(layer)
    a, b = (torch.tensor(float(n), dtype=torch.float64, requires_grad=True) for n in (n_in, n_out))
    positions = rule.positions(layer, (x,), layer(x))
    for smooth, exact in (
        (rule.params(layer, a, b), rule.params(layer, n_in, n_out)),
        (rule.macs(layer, positions, a, b), rule.macs(layer, positions, n_in, n_out)),
    ):
        assert float(smooth) == exact
        if exact:
            (slope,) = torch.autograd.grad(smooth, b)
            assert float(slope) > 0


# -- recurrent layers against weights that are sliced by hand -------------------------------------


def sliced_by_hand(rnn: nn.RNNBase, kept_in: list[int], kept: list[int]) -> nn.RNNBase:
    """A smaller module whose weights are taken gate by gate, unit by unit."""
    gates = {"LSTM": 4, "GRU": 3}.get(rnn.mode, 1)
    small = copy.deepcopy(rnn)
    small.__init__(  # type: ignore[misc]
        len(kept_in),
        len(kept),
        num_layers=rnn.num_layers,
        bias=rnn.bias,
        batch_first=rnn.batch_first,
        bidirectional=rnn.bidirectional,
        dtype=rnn.weight_hh_l0.dtype,
    )
    size = rnn.hidden_size
    with torch.no_grad():
        for name, target in small.named_parameters():
            source = dict(rnn.named_parameters())[name]
            for gate in range(gates):
                for row, unit in enumerate(kept):
                    values = source[gate * size + unit]
                    if name.startswith("weight_hh"):
                        values = values[kept]
                    elif name.startswith("weight_ih_l0"):
                        values = values[kept_in]
                    elif name.startswith("weight_ih"):
                        columns = kept + [size + u for u in kept] if rnn.bidirectional else kept
                        values = values[columns]
                    target[gate * len(kept) + row] = values
    return small


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_pruner_against_hand_sliced_weights(
    cls: type[nn.RNNBase], layers: int, both: bool, bias: bool
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"num_layers": layers, "bidirectional": both, "bias": bias, "batch_first": True}
        rnn = cls(5, 6, **options, dtype=torch.float64)
        x = torch.randn(2, 7, 3, dtype=torch.float64)
    kept_in, kept = [0, 2, 3], [1, 2, 5]
    expected = sliced_by_hand(rnn, kept_in, kept)
    pruner = RecurrentPruner()
    pruner.prune_out_channels(rnn, [0, 3, 4])
    pruner.prune_in_channels(rnn, [1, 4])
    assert (rnn.hidden_size, rnn.input_size) == (3, 3)
    assert (pruner.get_out_channels(rnn), pruner.get_in_channels(rnn)) == (3, 3)
    for name, parameter in expected.named_parameters():
        assert torch.equal(dict(rnn.named_parameters())[name], parameter), name
    assert torch.equal(rnn(x)[0], expected(x)[0])
    rnn(x)[0].sum().backward()  # the weights that the kernel uses are the parameters
    assert all(p.grad is not None for p in rnn.parameters())


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_cut_recurrent_weights_are_put_together_again(
    cls: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    rnn = cls(5, 6, num_layers=2, bidirectional=True)
    seen = []

    def flatten(layer: nn.RNNBase) -> None:  # what torch's own does shows on a GPU only
        seen.append([w.shape for w in layer._flat_weights])

    with monkeypatch.context() as patch:
        patch.setattr(nn.RNNBase, "flatten_parameters", flatten)
        RecurrentPruner().prune_out_channels(rnn, [0, 4])
        RecurrentPruner().prune_in_channels(rnn, [1])
    fresh = [cls(n, 4, num_layers=2, bidirectional=True)._flat_weights for n in (5, 4)]
    assert seen == [[w.shape for w in weights] for weights in fresh], "whole layers each time"


def test_lstm_with_a_projection_is_refused() -> None:
    lstm = nn.LSTM(4, 6, proj_size=3)
    rule = rule_of(lstm)
    assert rule is not None and "proj_size=3" in str(rule.refuses(lstm))
    with pytest.raises(GraphError, match=r"proj_size=3 cannot be pruned.*proj_size=0 and a Linear"):
        RecurrentPruner().prune_out_channels(lstm, [0])


class Renamed(nn.Conv1d):
    """A subclass that computes the same."""


class Standardised(nn.Conv1d):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean())


def test_a_subclass_with_its_own_forward_has_no_rule() -> None:
    assert rule_of(Renamed(4, 4, 1)) is rule_of(nn.Conv1d(4, 4, 1)) is not None
    assert rule_of(Standardised(4, 4, 1)) is None
    assert rule_of(nn.ReLU()) is None
    assert rule_of(nn.PReLU()) is None  # one slope for all channels: nothing to cut
    assert isinstance(rule_of(nn.PReLU(4)), PReLURule)


def test_registering_twice_is_refused() -> None:
    with pytest.raises(InputError, match="Conv1d already has a rule"):
        register_rule(PReLURule(), nn.Conv1d)
    assert list_rules()["torch.nn.modules.conv.Conv1d"] == "ConvRule"


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Embedding(4, 3, max_norm=1.0), "an embedding with max_norm=1.0"),
        (nn.LSTM(4, 3, proj_size=2), "an LSTM with proj_size=2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "why",
)
def test_layers_that_cannot_be_cut_say_why(layer: nn.Module, why: str) -> None:
    rule = rule_of(layer)
    assert rule is not None and why in str(rule.refuses(layer))


def test_a_layer_norm_over_several_axes_is_followed_by_its_operation() -> None:
    """Which of its axes holds channels is known when it runs."""
    assert rule_of(nn.LayerNorm((3, 4))) is None
    assert rule_of(nn.RMSNorm((3, 4))) is None


@needs_asteroid
def test_filterbanks_that_are_computed_are_refused() -> None:
    from asteroid_filterbanks import STFTFB, Decoder, Encoder, FreeFB

    computed = Encoder(STFTFB(16, 16))
    rule = rule_of(computed)
    assert rule is not None and "STFTFB is computed" in str(rule.refuses(computed))
    inverse = Decoder.pinv_of(Encoder(FreeFB(6, 8)))
    rule = rule_of(inverse)
    assert rule is not None and "pseudo-inverse" in str(rule.refuses(inverse))


@needs_asteroid
def test_filterbank_counts_follow() -> None:
    encoder, x = made("encoder")
    rule = law_rule(encoder)
    rule.pruner(encoder).prune_out_channels(encoder, [0, 5])
    bank: Any = encoder.filterbank
    assert bank.n_filters == bank.n_feats_out == encoder.n_feats_out == 4
    assert encoder(x).shape[1] == 4
