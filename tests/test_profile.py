"""Parameters and MACs against hand counts, torch's FLOP counter, and thop where it is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sepprune_tp.errors import InputError
from sepprune_tp.profile import part_of, profile


def flops(model: nn.Module, *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(*inputs)
    return int(counter.get_total_flops())


B, T = 3, 20
CASES: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    # (layer, input shape, MACs by hand)
    "conv": (nn.Conv1d(4, 6, 5, padding=2), (B, 4, T), B * T * 4 * 6 * 5),
    "strided": (nn.Conv1d(4, 6, 4, stride=2), (B, 4, T), B * 9 * 4 * 6 * 4),
    "grouped": (nn.Conv1d(4, 6, 5, padding=2, groups=2), (B, 4, T), B * T * 6 * 2 * 5),
    "depthwise": (nn.Conv1d(6, 6, 3, dilation=2, padding=2, groups=6), (B, 6, T), B * T * 6 * 3),
    "widening depthwise": (nn.Conv1d(2, 6, 3, padding=1, groups=2), (B, 2, T), B * T * 6 * 3),
    "two dimensions": (nn.Conv2d(2, 3, (3, 2)), (B, 2, 9, 8), B * 7 * 7 * 2 * 3 * 6),
    "transposed": (nn.ConvTranspose1d(4, 6, 8, stride=4), (B, 4, T), B * T * 4 * 6 * 8),
    "transposed grouped": (
        nn.ConvTranspose1d(4, 6, 8, stride=4, groups=2),
        (B, 4, T),
        B * T * 4 * 3 * 8,
    ),
    "linear": (nn.Linear(4, 7), (B, T, 4), B * T * 4 * 7),
    "attention": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (B, T, 8),
        B * (4 * T * 64 + 2 * T * T * 8 + 2 * T * 8 * 16),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_hand_count_and_flop_counter(case: str) -> None:
    layer, shape, by_hand = CASES[case]
    found = profile(nn.Sequential(layer), torch.randn(shape))
    assert found.macs == by_hand
    assert found.params == sum(p.numel() for p in layer.parameters())
    x = torch.randn(shape)
    layer.train()  # attention in eval mode runs in one fused call that the counter cannot see
    assert flops(layer, x) == 2 * by_hand


RECURRENT = [
    # class, gates, options, directions
    (nn.LSTM, 4, {}, 1),
    (nn.GRU, 3, {"bidirectional": True}, 2),
    (nn.RNN, 1, {"num_layers": 2}, 1),
    (nn.LSTM, 4, {"num_layers": 2, "bidirectional": True}, 2),
    (nn.GRU, 3, {"num_layers": 3, "bidirectional": True, "bias": False}, 2),
]


@pytest.mark.parametrize(("cls", "gates", "options", "directions"), RECURRENT)
def test_recurrent_by_hand(
    cls: type[nn.RNNBase], gates: int, options: dict[str, Any], directions: int
) -> None:
    n_in, hidden = 5, 7
    layer = cls(n_in, hidden, batch_first=True, **options)
    macs = 0
    width = n_in
    for _ in range(layer.num_layers):
        macs += directions * gates * hidden * (width + hidden)
        width = directions * hidden
    found = profile(layer, torch.randn(B, T, n_in))
    assert found.macs == B * T * macs
    assert found.params == sum(p.numel() for p in layer.parameters())
    # The same multiplications as one linear layer for each weight matrix, which torch sees.
    weights = [p for name, p in layer.named_parameters() if name.startswith("weight")]
    x = [torch.randn(B * T, w.shape[1]) for w in weights]
    counter = FlopCounterMode(display=False)
    with counter:
        for w, y in zip(weights, x, strict=True):
            nn.functional.linear(y, w)
    assert counter.get_total_flops() == 2 * found.macs


def test_lstm_with_projections_by_hand() -> None:
    layer = nn.LSTM(5, 7, proj_size=3, batch_first=True)
    by_hand = 4 * 7 * (5 + 3) + 3 * 7
    assert profile(layer, torch.randn(B, T, 5)).macs == B * T * by_hand
    layer, x = layer.double(), torch.randn(B, T, 5).double()
    assert flops(layer, x) == 2 * profile(layer, x).macs


@pytest.mark.filterwarnings("ignore")
def test_thop_agrees_where_it_is_right() -> None:
    """On ungrouped and grouped convolutions and linear layers; elsewhere it is wrong (below)."""
    thop = pytest.importorskip("thop")
    net = nn.Sequential(
        nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Conv1d(6, 6, 3, groups=3), nn.Linear(14, 3)
    )
    x = torch.randn(B, 4, T)
    macs, params = thop.profile(net, inputs=(x,), verbose=False)
    found = profile(net, x)
    assert (found.macs, found.params) == (macs, params)


@pytest.mark.filterwarnings("ignore")
def test_thop_is_wrong_on_transposed_convolutions() -> None:
    """Why thop is only a second opinion: it counts output positions, 4 times too many here."""
    thop = pytest.importorskip("thop")
    net = nn.Sequential(nn.ConvTranspose1d(4, 4, 8, stride=8))
    x = torch.randn(B, 4, T)
    macs, _ = thop.profile(net, inputs=(x,), verbose=False)
    assert macs != profile(net, x).macs == flops(net, x) // 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.first(x)))


def test_tied_weights_count_once_and_calls_add_up() -> None:
    found = profile(Tied(), torch.randn(2, 4))
    assert found.params == 16 + 4 + 4 == sum(row.params for row in found.rows)
    assert {row.name: row.macs for row in found.rows} == {"first": 2 * 2 * 16, "second": 2 * 16}


class Sneaky(nn.Module):
    """Uses a layer's weights without calling it, its own matrix, and one in an unknown form."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.hidden = nn.Linear(4, 4)
        self.mix = nn.Parameter(torch.eye(4))
        self.two = nn.Bilinear(4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.used(x) @ self.hidden.weight @ self.mix, x)


def test_what_cannot_be_counted_is_named() -> None:
    found = profile(Sneaky(), torch.randn(2, 4))
    assert found.macs == 3 * 2 * 16
    rows = {row.name: row.macs for row in found.rows}
    assert rows["used"] == rows["hidden.weight"] == rows["mix"] == 2 * 16
    assert {row.name for row in found.uncounted} == {"two"}
    assert "MACs unknown" in str(found) and "two (Bilinear)" in str(found)
    assert profile(Tied(), torch.randn(2, 4)).uncounted == []  # negative control


def test_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    profile(net, torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError):
        profile(net, torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0)))
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_input_says_what_to_do() -> None:
    net = nn.Conv1d(1, 4, 3)
    with pytest.raises(InputError, match=r"Conv1d cannot run .* \(2, 3, 9\).*mixture \(B, T\)"):
        profile(net, torch.randn(2, 3, 9))
    with pytest.raises(InputError, match="example_inputs is a str"):
        profile(net, "mixture.wav")


def test_arguments_by_name_and_position() -> None:
    layer, x = nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4))
    by_position = profile(layer, x)
    by_name = profile(layer, {"input1": x[0], "input2": x[1]})
    assert by_position.params == by_name.params == 65
    assert by_position.uncounted[0].kind == "Bilinear"
    linear = nn.Linear(3, 2)
    assert profile(linear, {"input": x[0]}).macs == profile(linear, x[0]).macs == 12


def small(name: str, **args: Any) -> nn.Module:
    models = pytest.importorskip("asteroid.models")
    return getattr(models, name)(n_src=2, **args)


def test_conv_tasnet_matches_flop_counter_and_parts_add_up() -> None:
    model = small("ConvTasNet", n_filters=32, bn_chan=16, hid_chan=24, skip_chan=8, n_blocks=2)
    x = torch.randn(2, 1, 800)
    found = profile(model, x)
    assert 2 * found.macs == flops(model.eval(), x)
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.macs == sum(part.macs for part in found.parts.values())
    assert found.params == sum(part.params for part in found.parts.values())
    frames = (800 - 16) // 8 + 1
    assert found.encoder.macs == 2 * frames * 32 * 16
    assert found.decoder.macs == 2 * 2 * frames * 32 * 16
    assert found.encoder.params == found.decoder.params == 32 * 16
    assert found.separator.share == pytest.approx(found.separator.macs / found.macs)
    assert sum(row.share for row in found.rows) == pytest.approx(1.0)
    assert not found.uncounted


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("SuDORMRFNet", {"n_filters": 16, "bn_chan": 8, "num_blocks": 1}),
        ("SuDORMRFImprovedNet", {"n_filters": 16, "bn_chan": 8, "num_blocks": 1}),
    ],
)
def test_convolutional_models_match_flop_counter(name: str, args: dict[str, int]) -> None:
    model, x = small(name, **args).eval(), torch.randn(1, 1600)
    assert 2 * profile(model, x).macs == flops(model, x)


@pytest.mark.parametrize("rnn_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_models_match_flop_counter(rnn_type: str, bidirectional: bool) -> None:
    """In float64, where no fused kernel hides the recurrence from torch's counter."""
    args = {"n_filters": 16, "bn_chan": 8, "hid_size": 8, "n_repeats": 1, "num_layers": 2}
    model = small("DPRNNTasNet", rnn_type=rnn_type, bidirectional=bidirectional, **args)
    model, x = model.eval().double(), torch.randn(1, 1600, dtype=torch.float64)
    found = profile(model, x)
    assert 2 * found.macs == flops(model, x)
    assert not found.uncounted


def test_gated_encoder_counts_both_filterbanks() -> None:
    model = small("LSTMTasNet", n_filters=16, hid_size=8, n_layers=1)
    found = profile(model, torch.randn(1, 800))
    frames = (800 - 16) // 8 + 1
    assert found.encoder.macs == 2 * frames * 16 * 16
    assert found.encoder.params == 2 * 16 * 16
    assert not found.uncounted


def test_heaviest_is_the_smallest_set() -> None:
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 90), nn.Linear(90, 2))
    found = profile(net, torch.randn(1, 4))  # MACs 40, 900, 180
    assert found.heaviest(0.5) == [net[2]]
    assert found.heaviest(0.9) == [net[2], net[3]]
    assert found.heaviest(1.0) == [net[2], net[3], net[0]]
    with pytest.raises(InputError, match=r"share is 90; give a share .* in \(0, 1\]"):
        found.heaviest(90)


def test_parts_by_name() -> None:
    net = nn.ModuleDict({name: nn.Identity() for name in ("encoder", "masker", "decoder", "sm")})
    assert part_of("encoder.filterbank", net) == "encoder"
    assert part_of("module.masker.TCN.0", net) == part_of("masker", net) == "separator"
    assert part_of("sm.x", net) == part_of("separator.x", net) == "other"  # there is but one
    assert part_of("decoder", net) == "decoder"
    assert part_of("enc_activation", net) == "other"
