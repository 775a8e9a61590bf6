"""The laws of every layer rule: gated is pruned, counts are exact; and the layers themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from sepprune_tp.errors import GraphError, InputError
from sepprune_tp.layers import LayerRule, list_rules, register_rule, rule_of
from sepprune_tp.layers.base import GatedCall
from sepprune_tp.layers.norm import PReLURule
from sepprune_tp.layers.pooling import pooled_frame_norm, pooled_group_norm
from sepprune_tp.layers.recurrent import RecurrentPruner
from sepprune_tp.profile import profile

BATCH, TIME = 2, 9
Made = tuple[nn.Module, tuple[int, ...]]
"""A layer and the shape of an input."""

few = settings(
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failure is reported as drawn: shrinking runs it hundreds of times
    suppress_health_check=list(HealthCheck),
)


def conv(cls: type[nn.Module], axes: int, groups: int = 1, **options: Any) -> Callable[[], Made]:
    shape = (BATCH, 6, TIME, 7, 5)[: 2 + axes]
    return lambda: (cls(6, 12, 3, groups=groups, **options), shape)


def depthwise(cls: type[nn.Module], axes: int, **options: Any) -> Callable[[], Made]:
    shape = (BATCH, 6, TIME, 7, 5)[: 2 + axes]
    return lambda: (cls(6, 6, 3, groups=6, **options), shape)


def recurrent(cls: type[nn.Module], **options: Any) -> Callable[[], Made]:
    return lambda: (cls(4, 5, batch_first=True, **options), (BATCH, TIME, 4))


def norm(cls: type[nn.Module], *args: Any, axes: int = 1, **options: Any) -> Callable[[], Made]:
    return lambda: (cls(*args, **options), (BATCH, 6, TIME, 7, 5)[: 2 + axes])


LAYERS: dict[str, Callable[[], Made]] = {
    "conv1d": conv(nn.Conv1d, 1, stride=2),
    "conv1d-grouped": conv(nn.Conv1d, 1, groups=3),
    "conv1d-no-bias": conv(nn.Conv1d, 1, bias=False, dilation=2),
    "conv2d": conv(nn.Conv2d, 2),
    "conv2d-grouped": conv(nn.Conv2d, 2, groups=2),
    "conv3d": conv(nn.Conv3d, 3),
    "transposed-1d": conv(nn.ConvTranspose1d, 1, stride=2),
    "transposed-2d": conv(nn.ConvTranspose2d, 2, bias=False),
    "depthwise-1d": depthwise(nn.Conv1d, 1, padding=1),
    "depthwise-2d": depthwise(nn.Conv2d, 2, bias=False),
    "depthwise-transposed": depthwise(nn.ConvTranspose1d, 1, stride=2),
    "linear": lambda: (nn.Linear(6, 7), (BATCH, TIME, 6)),
    "linear-no-bias": lambda: (nn.Linear(6, 7, bias=False), (BATCH, 6)),
    "lstm": recurrent(nn.LSTM),
    "lstm-bidirectional-2": recurrent(nn.LSTM, bidirectional=True, num_layers=2),
    "gru-3": recurrent(nn.GRU, num_layers=3),
    "gru-bidirectional": recurrent(nn.GRU, bidirectional=True),
    "rnn-no-bias": recurrent(nn.RNN, bias=False),
    "rnn-relu-bidirectional-2": recurrent(
        nn.RNN, nonlinearity="relu", bidirectional=True, num_layers=2
    ),
    "batch-norm": norm(nn.BatchNorm1d, 6),
    "batch-norm-2d": norm(nn.BatchNorm2d, 6, axes=2),
    "instance-norm": norm(nn.InstanceNorm1d, 6, affine=True),
    "group-norm-1": norm(nn.GroupNorm, 1, 6),
    "group-norm-3": norm(nn.GroupNorm, 3, 6, axes=2),
    "group-norm-plain": norm(nn.GroupNorm, 2, 6, affine=False),
    "layer-norm": lambda: (nn.LayerNorm(6), (BATCH, TIME, 6)),
    "layer-norm-plain": lambda: (nn.LayerNorm(6, elementwise_affine=False), (BATCH, TIME, 6)),
    "prelu": norm(nn.PReLU, 6),
}

try:
    from asteroid.masknn import norms
    from asteroid_filterbanks import STFTFB, AnalyticFreeFB, Decoder, Encoder, FreeFB
except ImportError:
    ASTEROID = False
else:
    ASTEROID = True
    LAYERS |= {
        "gLN": norm(norms.GlobLN, 6),
        "gLN-2d": norm(norms.GlobLN, 6, axes=2),
        "cLN": norm(norms.ChanLN, 6),
        "cLN-2d": norm(norms.ChanLN, 6, axes=2),
        "cgLN": norm(norms.CumLN, 6),
        "fgLN": norm(norms.FeatsGlobLN, 6),
        "encoder": lambda: (Encoder(FreeFB(6, 8, stride=4)), (BATCH, 1, 64)),
        "decoder": lambda: (Decoder(FreeFB(6, 8, stride=4)), (BATCH, 2, 6, TIME)),
        "encoder-analytic": lambda: (Encoder(AnalyticFreeFB(13, 8, stride=4)), (BATCH, 1, 64)),
        "decoder-analytic": lambda: (Decoder(AnalyticFreeFB(6, 8)), (BATCH, 2, 6, TIME)),
    }

needs_asteroid = pytest.mark.skipif(not ASTEROID, reason="needs the extra 'asteroid'")


def made(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A layer with random weights, gains and statistics in eval mode, and an input for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer, shape = LAYERS[name]()
        layer = layer.to(dtype).eval()
        with torch.no_grad():
            for tensor in layer.parameters():
                tensor.normal_()
            for key, buffer in layer.named_buffers():
                if key.startswith("running"):
                    buffer.uniform_(0.5, 2)
        return layer, torch.randn(shape, dtype=dtype)


def law_rule(layer: nn.Module) -> LayerRule:
    rule = rule_of(layer)
    assert rule is not None
    assert rule.refuses(layer) is None
    return rule


def gated(
    rule: LayerRule,
    layer: nn.Module,
    x: Tensor,
    mask_in: Tensor | None,
    mask_out: Tensor | None = None,
) -> Tensor:
    """The layer's output with gates on its channels."""
    call = GatedCall(layer.forward, (x,), {}, mask_in, mask_out)
    return rule.output(rule.run_gated(layer, call))


def drawn(data: st.DataObject, size: int, parts: int = 1) -> Tensor:
    """A mask that keeps at least one channel, the same in each of ``parts``."""
    part = data.draw(
        st.lists(st.booleans(), min_size=size // parts, max_size=size // parts).filter(any)
    )
    return torch.tensor(part * parts)


def cut(layer: nn.Module, rule: LayerRule, keep_in: Tensor | None, keep_out: Tensor) -> nn.Module:
    """A copy of a layer without the closed channels."""
    layer = copy.deepcopy(layer)
    if keep_in is not None and not keep_in.all():
        rule.pruner(layer).prune_in_channels(layer, (~keep_in).nonzero().flatten().tolist())
    if not keep_out.all():
        rule.pruner(layer).prune_out_channels(layer, (~keep_out).nonzero().flatten().tolist())
    return layer


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


def test_lstm_with_a_projection_is_refused() -> None:
    lstm = nn.LSTM(4, 6, proj_size=3)
    rule = rule_of(lstm)
    assert rule is not None and "proj_size=3" in str(rule.refuses(lstm))
    with pytest.raises(GraphError, match=r"proj_size=3 cannot be pruned.*proj_size=0 and a Linear"):
        RecurrentPruner().prune_out_channels(lstm, [0])


# -- norms over open channels ---------------------------------------------------------------------

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 3])
@few
@given(data=st.data())
def test_pooled_group_norm_is_that_of_the_slice(
    dtype: torch.dtype, groups: int, data: st.DataObject
) -> None:
    keep = drawn(data, 12, groups)
    x, gain, bias = norm_inputs((2, 12, 5, 8), dtype)
    expected = functional.group_norm(
        x[:, keep].double(), groups, gain[keep].double(), bias[keep].double(), eps=1e-5
    )
    found = pooled_group_norm(x, keep.to(x.dtype), gain, bias, 1e-5, groups)
    assert found.dtype == dtype and found.shape == x.shape
    assert torch.allclose(
        found[:, keep].double(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype]
    )
    if groups == 1 and int(keep.sum()) <= 6:  # a negative control: closed channels do count else
        all_open = pooled_group_norm(x, torch.ones(12, dtype=dtype), gain, bias, 1e-5, groups)
        assert not torch.allclose(all_open[:, keep].double(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("axis", [1, 3])
@few
@given(data=st.data())
def test_pooled_frame_norm_is_that_of_the_slice(
    dtype: torch.dtype, axis: int, data: st.DataObject
) -> None:
    keep = drawn(data, 12)
    x, gain, bias = norm_inputs((2, 12, 5, 8), dtype)
    expected = functional.layer_norm(
        x[:, keep].double().transpose(1, -1),
        (int(keep.sum()),),
        gain[keep].double(),
        bias[keep].double(),
    )
    y = pooled_frame_norm(x.transpose(1, axis), keep.to(x.dtype), gain, bias, 1e-5, axis)
    found = y.transpose(axis, 1)
    assert found.dtype == dtype
    found = found[:, keep].transpose(1, -1).double()
    assert torch.allclose(found, expected, atol=TOLERANCE[dtype] * 8, rtol=TOLERANCE[dtype])


def norm_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Channels of very different means and scales, gain and bias."""
    generator = torch.Generator().manual_seed(3)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    wide = (1, shape[1], 1, 1)
    x = noise(*shape) * noise(*wide).exp() + 2 * noise(*wide)
    return x.to(dtype), noise(shape[1]).to(dtype), noise(shape[1]).to(dtype)


@needs_asteroid
@pytest.mark.parametrize("name", ["gLN", "gLN-2d", "cLN", "cLN-2d", "cgLN"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_asteroid_norms_over_open_channels(name: str, dtype: torch.dtype) -> None:
    layer, x = made(name, dtype=torch.float64)
    keep = torch.tensor([True, False, True, True, False, False])
    rule = law_rule(layer)
    expected = cut(layer, rule, None, keep)(x[:, keep])
    low = copy.deepcopy(layer).to(dtype)
    with torch.no_grad():
        found = gated(rule, low, x.to(dtype), keep.to(dtype))
        dense = layer(x)
    assert found.dtype == dtype
    # bfloat16 holds 8 bits, and cgLN divides by the spread of very few values at the start
    bound = TOLERANCE[dtype] * (20 if name == "cgLN" else 4) * float(expected.abs().max())
    assert float((found[:, keep].double() - expected).abs().max()) < bound
    assert not torch.allclose(dense[:, keep], expected, atol=0.05)


# -- which rule -----------------------------------------------------------------------------------


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
        (nn.Conv1d(4, 8, 3, groups=4), "one channel a group on one side only"),
        (nn.ConvTranspose1d(6, 12, 3, groups=3), "a transposed convolution with 3 groups"),
        (nn.GroupNorm(4, 4), "one channel a group"),
        (nn.LayerNorm((3, 4)), "over several axes at once, (3, 4)"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "running statistics"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "why",
)
def test_layers_that_cannot_be_cut_say_why(layer: nn.Module, why: str) -> None:
    rule = rule_of(layer)
    assert rule is not None and why in str(rule.refuses(layer))


@needs_asteroid
def test_filterbanks_that_are_computed_are_refused() -> None:
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


def reference_norm(x: Tensor, mask: Tensor, gain: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Statistics with the mask as weight, written down plainly, over (B, C, T)."""
    parts = x.unflatten(1, (groups, -1))  # (B, G, C / G, T)
    weight = mask.view(groups, -1, 1)
    count = weight.sum((1, 2), keepdim=True) * x.shape[-1]
    mean = (parts * weight).sum((2, 3), keepdim=True) / count
    spread = ((parts - mean).square() * weight).sum((2, 3), keepdim=True) / count
    normed = ((parts - mean) / (spread + 1e-5).sqrt()).flatten(1, 2)
    return normed * gain[:, None] + bias[:, None]


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_pooled_group_norm(groups: int) -> None:
    """Of everything, also with gates between 0 and 1, against autograd on the plain formula."""
    x, gain, bias = (
        t[0, ..., 0] if t.dim() > 1 else t for t in norm_inputs((2, 6, 5, 8), torch.float64)
    )
    x = x.expand(2, 6, 5) * torch.tensor([1.0, -0.7], dtype=torch.float64)[:, None, None]
    mask = torch.tensor([1.0, 0.0, 0.3, 1.0, 0.8, 0.0], dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, mask, gain, bias)]

    def ours(*args: Tensor) -> Tensor:
        return pooled_group_norm(*args, 1e-5, groups)

    found, expected = ours(*leaves), reference_norm(*leaves, groups)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    direction = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    for one, other in zip(
        torch.autograd.grad(found, leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)
        assert float(one.abs().max()) > 1e-3
    assert torch.autograd.gradcheck(ours, leaves)


def test_gradients_of_pooled_frame_norm() -> None:
    x, gain, bias = norm_inputs((2, 6, 3, 4), torch.float64)
    mask = torch.tensor([1.0, 0.0, 0.3, 1.0, 0.8, 0.0], dtype=torch.float64)
    leaves = [t.detach().clone().requires_grad_() for t in (x, mask, gain, bias)]
    assert torch.autograd.gradcheck(lambda *args: pooled_frame_norm(*args, 1e-5, 1), leaves)
