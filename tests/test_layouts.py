"""A gated layer keeps the memory layout of the plain one: models call ``.view`` on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from misuse_cases import gates_of
from torch import Tensor, nn

from sepprune_tp import Budget, GateSet, learn_gates
from sepprune_tp.layers import rule_of
from sepprune_tp.layers.base import GatedCall

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "pointwise convolution": lambda: nn.Conv1d(6, 4, 1),
    "convolution": lambda: nn.Conv1d(6, 4, 3),
    "depthwise convolution": lambda: nn.Conv1d(6, 6, 3, groups=6),
    "transposed convolution": lambda: nn.ConvTranspose1d(6, 4, 3),
    "group norm": lambda: nn.GroupNorm(1, 6),
    "group norm in parts": lambda: nn.GroupNorm(2, 6),
}
OF_LAST_AXIS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "layer norm": lambda: nn.LayerNorm(6),
    "rms norm": lambda: nn.RMSNorm(6),
    "lstm": lambda: nn.LSTM(6, 4, batch_first=True),
}
ORDERS = {"as it comes": False, "transposed": True}


def laid_out(last: bool, transposed: bool) -> Tensor:
    """(2, 6, 9), or (2, 9, 6) where channels come last, in one of two memory layouts."""
    x = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    if last == transposed:
        return x.transpose(1, 2) if last else x
    return (
        x.transpose(1, 2).contiguous() if last else x.transpose(1, 2).contiguous().transpose(1, 2)
    )


def of(output: object) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("learned", [False, True], ids=["hard", "learned"])
@pytest.mark.parametrize("transposed", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("name", [*LAYERS, *OF_LAST_AXIS])
def test_a_gated_layer_keeps_the_layout(name: str, transposed: bool, learned: bool) -> None:
    layer = {**LAYERS, **OF_LAST_AXIS}[name]().eval()
    layer.requires_grad_(not learned)
    x = laid_out(name in OF_LAST_AXIS, transposed)
    rule = rule_of(layer)
    assert rule is not None
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1]).requires_grad_(learned)
    masks = [mask, torch.eye(6) * mask] if rule.mixes(layer) else [mask]
    plain = of(layer(x))
    for given in masks:
        gated = of(rule.run_gated(layer, GatedCall(layer.forward, (x,), {}, given)))
        assert gated.shape == plain.shape and gated.stride() == plain.stride()


@pytest.mark.parametrize("learned", [False, True], ids=["hard", "learned"])
def test_a_gated_model_that_views_its_masks_runs(learned: bool) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.norm = nn.Conv1d(1, 6, 1), nn.GroupNorm(1, 6)
            self.out = nn.Conv1d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.into(x).transpose(1, 2).transpose(1, 2))
            return self.out(y).view(len(x), -1)

    model = Views().eval()
    gates = gates_of(model)
    x = torch.randn(2, 1, 24)
    ahead = gates.look_ahead()
    with gates, torch.no_grad(), ahead.observing():
        model(x)
    gates.lookahead = ahead
    values = torch.rand(len(gates)).requires_grad_(learned)
    with gates:
        gates.use(values)
        assert model(x).shape == (2, 96)


def test_the_search_of_torchaudios_conv_tasnet_looks_ahead() -> None:
    models = pytest.importorskip("torchaudio.models")
    sizes = {"enc_kernel_size": 16, "enc_num_feats": 16, "msk_num_feats": 8}
    more = {"msk_num_hidden_feats": 16, "msk_num_layers": 2, "msk_num_stacks": 1}
    model = models.ConvTasNet(num_sources=2, **sizes, **more).eval()
    sources = torch.randn(2, 2, 400, generator=torch.Generator().manual_seed(0))
    mixture = sources.sum(1, keepdim=True)
    gates = GateSet(model, mixture, scope="all")
    learn_gates(
        gates,
        [(mixture, sources)],
        lambda estimates, wanted: (estimates - wanted).square().mean(),
        Budget(macs=0.7),
        steps=40,
        progress=False,
        lookahead=True,
    )
    assert gates.cost().macs <= 0.7 * gates.cost_model.dense.macs
