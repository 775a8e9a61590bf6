"""Separators and enhancers of SpeechBrain, put together from its classes, and DeepFilterNet."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.row import ZooRow, noise

__all__ = ["ROWS", "MaskedSeparator"]

# -- SpeechBrain ----------------------------------------------------------------------------------


class MaskedSeparator(nn.Module):
    """Encoder, mask network and decoder, put together as SpeechBrain's recipes do.

    Args:
        encoder: (B, T) to (B, N, K).
        masknet: (B, N, K) to (S, B, N, K).
        decoder: (B, N, K) to (B, T).
    """

    def __init__(self, encoder: nn.Module, masknet: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.masknet, self.decoder = encoder, masknet, decoder

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture (B, T) into (B, T, S)."""
        encoded = self.encoder(mixture)
        masks = self.masknet(encoded)
        masked = torch.stack([encoded] * masks.size(0)) * masks
        return torch.cat([self.decoder(part).unsqueeze(-1) for part in masked], dim=-1)


def _around(masknet: nn.Module) -> Any:
    from speechbrain.lobes.models.dual_path import Decoder, Encoder

    decoder = Decoder(in_channels=32, out_channels=1, kernel_size=16, stride=8, bias=False)
    return MaskedSeparator(Encoder(kernel_size=16, out_channels=32), masknet, decoder)


def _sepformer() -> Any:
    from speechbrain.lobes.models.dual_path import SepformerWrapper

    return SepformerWrapper(
        encoder_out_nchannels=32,
        masknet_chunksize=20,
        masknet_numlayers=1,
        intra_numlayers=2,
        inter_numlayers=2,
        intra_nhead=4,
        inter_nhead=4,
        intra_dffn=48,
        inter_dffn=48,
    )


def _dual_path(kind: str) -> Any:
    from speechbrain.lobes.models import dual_path

    def block() -> Any:
        if kind == "rnn":
            return dual_path.SBRNNBlock(32, 24, 1, "LSTM", 0, True)
        return dual_path.SBTransformerBlock(1, 32, 4, d_ffn=48)

    return _around(dual_path.Dual_Path_Model(32, 32, block(), block(), 2, K=20, norm="ln"))


def _re_sepformer() -> Any:
    from speechbrain.lobes.models import resepformer as re

    block = re.SBTransformerBlock_wnormandskip
    separator = re.ResourceEfficientSeparator(
        32,
        num_spk=2,
        causal=False,
        unit=32,
        layer=2,
        segment_size=20,
        mem_type="av",
        seg_model=block(1, 32, 4, 48, use_positional_encoding=True),
        mem_model=block(1, 32, 4, 48, use_positional_encoding=True),
    )
    return _around(separator)


def _skim() -> Any:
    from speechbrain.lobes.models import resepformer as re

    separator = re.ResourceEfficientSeparator(
        32,
        num_spk=2,
        causal=False,
        layer=2,
        segment_size=20,
        mem_type="hc",
        seg_model=re.SegLSTM(32, 24, bidirectional=True, norm_type="gln"),
        mem_model=re.MemLSTM(24, bidirectional=True, mem_type="hc", norm_type="gln"),
    )
    return _around(separator)


class _TasNetMasks(nn.Module):
    """SpeechBrain's Conv-TasNet in its own layout: frames before features."""

    def __init__(self) -> None:
        super().__init__()
        from speechbrain.lobes.models.conv_tasnet import Decoder, Encoder, MaskNet

        self.encoder, self.decoder = Encoder(16, 32), Decoder(16, 32)
        self.masknet = MaskNet(32, 24, 48, 3, 3, 2, 2)

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate a mixture (B, T) into (B, T, S)."""
        encoded = self.encoder(mixture)  # (B, K, N)
        masks = self.masknet(encoded.transpose(1, 2))  # (S, B, N, K)
        separated: Tensor = self.decoder(encoded, masks.permute(1, 3, 0, 2))
        return separated


def _metric_gan() -> Any:
    from speechbrain.lobes.models.MetricGAN import EnhancementGenerator

    return EnhancementGenerator()


def _spectra() -> Any:
    return torch.rand(2, 20, 257), torch.tensor([1.0, 1.0])


def _row(model: str, make: Callable[[], Any], *shape: int) -> ZooRow:
    return ZooRow("speechbrain", model, make, noise(*shape))


def _first(output: Any) -> Tensor:
    found: Tensor = output[0]
    return found


SPEECHBRAIN = [
    _row("SepFormer", _sepformer, 1, 2000),
    _row("SepFormer blocks", functools.partial(_dual_path, "sbt"), 1, 2000),
    _row("DPRNN", functools.partial(_dual_path, "rnn"), 1, 2000),
    _row("RE-SepFormer", _re_sepformer, 1, 2000),
    _row("SkiM", _skim, 1, 2000),
    _row("Conv-TasNet", _TasNetMasks, 2, 2000),
    ZooRow("speechbrain", "MetricGAN generator", _metric_gan, _spectra),
]

# -- DeepFilterNet --------------------------------------------------------------------------------


def _deep_filter_net(version: str) -> Any:
    """The class of one version at its default size."""
    if "torchaudio.backend" not in sys.modules:  # its loader of files wants what torchaudio dropped
        common = types.ModuleType("torchaudio.backend.common")
        common.AudioMetaData = object  # type: ignore[attr-defined]
        sys.modules["torchaudio.backend"] = types.ModuleType("torchaudio.backend")
        sys.modules["torchaudio.backend.common"] = common
    os.environ.setdefault("DF_LOG_LEVEL", "ERROR")
    from df.config import config

    config.use_defaults(allow_reload=True)
    config.set("MODEL", version, str, section="train")
    if version == "deepfilternet2":  # its default takes a view of a transposed tensor, and fails
        config.set("DFOP_METHOD", "df", str, section="deepfilternet")
        config.set("DF_OUTPUT_LAYER", "groupedlinear", str, section="deepfilternet")
    return importlib.import_module(f"df.{version}").init_model()


def _filtered_inputs() -> Any:
    return torch.randn(1, 1, 10, 481, 2), torch.randn(1, 1, 10, 32), torch.randn(1, 1, 10, 96, 2)


DEEP_FILTER = [
    ZooRow(
        "deepfilternet", name, functools.partial(_deep_filter_net, name), _filtered_inputs, _first
    )
    for name in ("deepfilternet", "deepfilternet2", "deepfilternet3")
]

ROWS: list[ZooRow] = [*SPEECHBRAIN, *DEEP_FILTER]
