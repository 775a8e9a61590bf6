"""Layers of every kind with inputs for them, and how the tests gate and cut one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sepprune_tp.layers import LayerRule, rule_of
from sepprune_tp.layers.base import GatedCall

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
    "transposed-1d-grouped": conv(nn.ConvTranspose1d, 1, groups=3, stride=2),
    "transposed-2d-grouped": conv(nn.ConvTranspose2d, 2, groups=2, bias=False),
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
    "instance-norm-tracking": norm(nn.InstanceNorm1d, 6, track_running_stats=True),
    "group-norm-6": norm(nn.GroupNorm, 6, 6, axes=2),
    "group-norm-plain": norm(nn.GroupNorm, 2, 6, affine=False),
    "layer-norm": lambda: (nn.LayerNorm(6), (BATCH, TIME, 6)),
    "layer-norm-plain": lambda: (nn.LayerNorm(6, elementwise_affine=False), (BATCH, TIME, 6)),
    "rms-norm": lambda: (nn.RMSNorm(6), (BATCH, TIME, 6)),
    "rms-norm-plain": lambda: (nn.RMSNorm(6, elementwise_affine=False, eps=0.1), (BATCH, 6)),
    "prelu": norm(nn.PReLU, 6),
}

try:
    from asteroid.masknn import norms
    from asteroid_filterbanks import AnalyticFreeFB, Decoder, Encoder, FreeFB
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
