"""The architectures that the invariants are proved on: small configurations, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from backbones import BACKBONES
from torch import nn

Builder = Callable[[], nn.Module]


def _asteroid(name: str, *names: str, **args: Any) -> nn.Module:
    from asteroid import models

    import sepprune_tp  # noqa: F401  (lets DCCRNet be built)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DPTransformer input dim")
        built: nn.Module = getattr(models, name)(*names, **args)
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
_DPT = {"n_src": 2, "n_filters": 12, "n_heads": 4, "ff_hid": 6, "chunk_size": 20, "n_repeats": 1}
_STFT = {"stft_n_filters": 64, "stft_kernel_size": 64, "stft_stride": 32}
_DEMASK = {"n_filters": 64, "kernel_size": 64, "stride": 32, "hidden_dims": (12, 10)}
_FASNET = {
    "n_src": 2,
    "enc_dim": 12,
    "feature_dim": 10,
    "hidden_dim": 6,
    "n_layers": 2,
    "tac_hidden_dim": 8,
    "sample_rate": 2000,
    "chunk_size": 10,
    "hop_size": 5,
}


def _tdcnpp(norm_type: str) -> nn.Module:
    """TDCN++ as its paper uses it: masks, and weights that make the sources add up again."""
    from asteroid.dsp.consistency import mixture_consistency
    from asteroid.masknn import TDConvNetpp
    from asteroid.models.base_models import BaseEncoderMaskerDecoder
    from asteroid_filterbanks import make_enc_dec

    class TDCNpp(BaseEncoderMaskerDecoder):
        def forward(self, wav: torch.Tensor) -> torch.Tensor:
            representation = self.forward_encoder(wav.unsqueeze(1))
            masks, weights = self.forward_masker(representation)
            estimates = self.forward_decoder(self.apply_masks(representation, masks))
            estimates = nn.functional.pad(estimates, [0, wav.size(-1) - estimates.size(-1)])
            found: torch.Tensor = mixture_consistency(wav, estimates, weights.unsqueeze(-1))
            return found

    args = {key: value for key, value in _CONV.items() if key not in ("kernel_size", "stride")}
    args["n_src"], count = 2, args.pop("n_filters")
    encoder, decoder = make_enc_dec("free", count, _CONV["kernel_size"], _CONV["stride"])
    return TDCNpp(encoder, TDConvNetpp(count, norm_type=norm_type, **args), decoder)


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
    "ConvTasNet-analytic": partial(
        _asteroid, "ConvTasNet", n_src=2, fb_name="analytic_free", **{**_CONV, "n_filters": 16}
    ),
    **{f"TDConvNetpp-{norm}": partial(_tdcnpp, norm) for norm in ("fgLN", "gLN")},
    "DPTNet": partial(_asteroid, "DPTNet", **_DPT),
    "DPTNet-input-layer": partial(_asteroid, "DPTNet", **{**_DPT, "n_filters": 14}),
    "DCCRNet": partial(_asteroid, "DCCRNet", "mini", **_STFT),
    "DCCRNet-2-sources": partial(
        _asteroid, "DCCRNet", "mini", n_src=2, mask_bound="sigmoid", **_STFT
    ),
    "DCUNet-pad": partial(_asteroid, "DCUNet", "mini", fix_length_mode="pad", **_STFT),
    "DCUNet-trim-2-sources": partial(
        _asteroid, "DCUNet", "mini", fix_length_mode="trim", n_src=2, mask_bound=None, **_STFT
    ),
    **{
        f"DeMask-{one}-{other}-{norm}": partial(
            _asteroid, "DeMask", one, other, norm_type=norm, **_DEMASK
        )
        for one, other, norm in (
            ("mag", "mag", "gLN"),
            ("reim", "mag", "cgLN"),
            ("cat", "mag", "cLN"),
            ("mag", "reim", "fgLN"),
            ("cat", "reim", "bN"),
        )
    },
    "DeMask-analytic": partial(_asteroid, "DeMask", "cat", fb_name="analytic_free", **_DEMASK),
    "FasNetTAC-gLN": partial(_asteroid, "FasNetTAC", **_FASNET),
    "FasNetTAC-cLN-GRU-uni": partial(
        _asteroid, "FasNetTAC", norm_type="cLN", rnn_type="GRU", bidirectional=False, **_FASNET
    ),
    "FasNetTAC-bN": partial(_asteroid, "FasNetTAC", norm_type="bN", **_FASNET),
    "FasNetTAC-fgLN-no-TAC": partial(
        _asteroid, "FasNetTAC", norm_type="fgLN", use_tac=False, **_FASNET
    ),
}
"""Asteroid separators: mixture (B, T), or (B, M, T), -> estimates (B, S, T)."""

MICROPHONES = {
    "FasNetTAC-gLN": 3,
    "FasNetTAC-cLN-GRU-uni": 2,
    "FasNetTAC-bN": 4,
    "FasNetTAC-fgLN-no-TAC": 2,
}
"""M of the models that take several recordings of one mixture."""


def shape_of(name: str, batch: int, time: int) -> tuple[int, ...]:
    """Shape of the input of a model: (B, T), or (B, M, T)."""
    return (batch, MICROPHONES[name], time) if name in MICROPHONES else (batch, time)


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
