"""The architectures that the invariants are proved on: small configurations, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from backbones import BACKBONES
from torch import nn

Builder = Callable[[], nn.Module]


def _asteroid(name: str, **args: Any) -> nn.Module:
    from asteroid import models

    built: nn.Module = getattr(models, name)(**args)
    return built


_CONV = {
    "n_filters": 12,
    "bn_chan": 8,
    "hid_chan": 10,
    "skip_chan": 6,
    "n_blocks": 2,
    "n_repeats": 2,
    "kernel_size": 16,
    "stride": 8,
}
_SUDO = {"n_src": 2, "n_filters": 12, "bn_chan": 8, "num_blocks": 2, "upsampling_depth": 3}
_DPRNN = {
    "n_src": 2,
    "n_filters": 12,
    "bn_chan": 8,
    "hid_size": 6,
    "n_repeats": 2,
    "chunk_size": 20,
}
_LSTM = {"n_src": 2, "n_filters": 12, "hid_size": 6}

SEPARATORS: dict[str, Builder] = {
    **{
        f"ConvTasNet-{norm}": partial(_asteroid, "ConvTasNet", n_src=2, norm_type=norm, **_CONV)
        for norm in ("gLN", "cLN", "cgLN", "fgLN", "bN")
    },
    **{
        f"ConvTasNet-causal-{norm}": partial(
            _asteroid, "ConvTasNet", n_src=2, norm_type=norm, causal=True, **_CONV
        )
        for norm in ("cLN", "cgLN")
    },
    "ConvTasNet-no-skip": partial(_asteroid, "ConvTasNet", n_src=2, **{**_CONV, "skip_chan": 0}),
    **{
        f"ConvTasNet-{count}-sources": partial(_asteroid, "ConvTasNet", n_src=count, **_CONV)
        for count in (1, 3, 4)
    },
    "ConvTasNet-softmax": partial(_asteroid, "ConvTasNet", n_src=2, mask_act="softmax", **_CONV),
    "SuDORMRFNet": partial(_asteroid, "SuDORMRFNet", **_SUDO),
    "SuDORMRFImprovedNet": partial(_asteroid, "SuDORMRFImprovedNet", **_SUDO),
    **{
        f"DPRNNTasNet-{kind}-{'bi' if both else 'uni'}": partial(
            _asteroid, "DPRNNTasNet", rnn_type=kind, bidirectional=both, **_DPRNN
        )
        for kind in ("LSTM", "GRU", "RNN")
        for both in (True, False)
    },
    "DPRNNTasNet-mulcat": partial(_asteroid, "DPRNNTasNet", use_mulcat=True, **_DPRNN),
    "DPRNNTasNet-cLN-2-layers": partial(
        _asteroid, "DPRNNTasNet", norm_type="cLN", num_layers=2, **_DPRNN
    ),
    **{
        f"LSTMTasNet-{count}-layers-{'bi' if both else 'uni'}": partial(
            _asteroid, "LSTMTasNet", n_layers=count, bidirectional=both, dropout=0.0, **_LSTM
        )
        for count in (1, 3)
        for both in (True, False)
    },
}
"""Asteroid separators: mixture (B, T) -> estimates (B, S, T)."""


class PlainConv(nn.Module):
    """A convolutional network with everything that couples channels: residuals, groups, concat."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 12, 5, padding=2)
        self.bn = nn.BatchNorm1d(12)
        self.grouped = nn.Conv1d(12, 12, 3, padding=1, groups=3)
        self.depthwise = nn.Conv1d(12, 12, 3, padding=1, groups=12)
        self.slopes = nn.PReLU(12)
        self.gn = nn.GroupNorm(3, 12)
        self.gain = nn.Parameter(torch.rand(12, 1) + 0.5)
        self.side = nn.Conv1d(12, 5, 1)
        self.up = nn.ConvTranspose1d(17, 8, 4, stride=2, padding=1)
        self.gate = nn.Conv1d(8, 16, 1)
        self.ln = nn.LayerNorm(8)
        self.rnn = nn.GRU(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, 2, T // 2 * 2)."""
        x = torch.relu(self.bn(self.first(x.unsqueeze(1))))
        y = x + self.gn(self.slopes(self.depthwise(self.grouped(x)))) * self.gain
        y = torch.cat([y, torch.tanh(self.side(y))], dim=1)
        y = nn.functional.glu(self.gate(self.up(y[..., ::2])), dim=1)
        y, _ = self.rnn(self.ln(y.transpose(1, 2)))
        return self.head(y).transpose(1, 2)


class PlainAttention(nn.Module):
    """Self-attention, cross-attention with other widths, and torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 12, 20, stride=10)
        self.memory = nn.Conv1d(1, 8, 20, stride=20)
        self.attention = nn.MultiheadAttention(12, 3, kdim=8, vdim=8)
        self.encoder = nn.TransformerEncoderLayer(12, 2, 10, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(12, 4, 10, dropout=0.0, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, 2, frames)."""
        x, memory = self.frames(x.unsqueeze(1)), self.memory(x.unsqueeze(1))
        x = x.permute(2, 0, 1)
        memory = memory.permute(2, 0, 1)
        x = (x + self.attention(x, memory, memory)[0]).transpose(0, 1)
        x = self.decoder(self.encoder(x), x)
        return self.head(x).transpose(1, 2)


PLAIN: dict[str, Builder] = {"PlainConv": PlainConv, "PlainAttention": PlainAttention}
PLAIN |= BACKBONES


def randomised(builder: Builder, seed: int, dtype: torch.dtype) -> nn.Module:
    """Build a model in eval mode with random biases, affines and running statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder().to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() <= 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.2)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2)
    return model
