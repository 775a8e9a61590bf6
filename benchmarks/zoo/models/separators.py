"""Separators of torchaudio, demucs, denoiser, open-unmix, bs-roformer and Asteroid."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.row import ZooRow, noise

__all__ = ["ROWS"]

SOURCES = ["drums", "vocals"]


def _row(library: str, model: str, make: Callable[[], Any], *shape: int) -> ZooRow:
    return ZooRow(library, model, make, noise(*shape))


# -- torchaudio -----------------------------------------------------------------------------------


def _torchaudio(name: str, *args: Any, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import torchaudio

        return getattr(torchaudio.models, name)(*args, **options)

    return make


def _with_lengths(frames: int, features: int, extra: int = 0) -> Callable[[], Any]:
    """Features (B, T, F) and their lengths; ``extra`` frames of look-ahead."""
    return lambda: (torch.randn(2, frames + extra, features), torch.tensor([frames, frames]))


def _first(output: Any) -> Tensor:
    found: Tensor = output[0]
    return found


_TASNET: dict[str, Any] = {
    "enc_num_feats": 32,
    "msk_num_feats": 24,
    "msk_num_hidden_feats": 48,
    "msk_num_layers": 3,
    "msk_num_stacks": 2,
}

TORCHAUDIO = [
    _row("torchaudio", "ConvTasNet", _torchaudio("ConvTasNet", **_TASNET), 2, 1, 2000),
    _row(
        "torchaudio",
        "HDemucs",
        _torchaudio("HDemucs", SOURCES, channels=8, nfft=1024, depth=5),
        1,
        2,
        8000,
    ),
    ZooRow(
        "torchaudio",
        "Conformer",
        _torchaudio("Conformer", 32, 4, 64, 2, 7),
        _with_lengths(20, 32),
        _first,
    ),
    ZooRow(
        "torchaudio",
        "Emformer",
        _torchaudio("Emformer", 32, 4, 64, 2, 8, right_context_length=2),
        _with_lengths(16, 32, 2),
        _first,
    ),
    _row("torchaudio", "Wav2Letter", _torchaudio("Wav2Letter", 10, "mfcc", 13), 1, 13, 60),
    _row("torchaudio", "DeepSpeech", _torchaudio("DeepSpeech", 16, 48, 10), 2, 1, 20, 16),
]

# -- Demucs and its kin ---------------------------------------------------------------------------


def _demucs(module: str, name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        kind = getattr(importlib.import_module(f"demucs.{module}"), name)
        return kind(SOURCES, **options)

    return make


def _denoiser() -> Any:
    from denoiser.demucs import Demucs

    return Demucs(hidden=8, depth=3, resample=2)


def _open_unmix() -> Any:
    from openunmix.model import OpenUnmix

    return OpenUnmix(nb_bins=65, nb_channels=2, hidden_size=32, nb_layers=2)


_WAVEFORM: dict[str, Any] = {"channels": 8, "samplerate": 8000}
_HYBRID: dict[str, Any] = {"channels": 8, "nfft": 512}
_WIDER: dict[str, Any] = {"channels": 8, "nfft": 1024, "depth": 5}  # hop 4 ** 4: branches meet

DEMUCS = [
    _row(
        "demucs",
        "Demucs v2",
        _demucs(
            "demucs", "Demucs", channels=8, depth=3, lstm_layers=2, dconv_mode=0, samplerate=8000
        ),
        1,
        2,
        4000,
    ),
    _row(
        "demucs",
        "Demucs, residual branches",
        _demucs("demucs", "Demucs", **_WAVEFORM, depth=4),
        1,
        2,
        4000,
    ),
    _row("demucs", "HDemucs", _demucs("hdemucs", "HDemucs", **_WIDER), 1, 2, 8000),
    _row(
        "demucs",
        "HDemucs, amplitude masks",
        _demucs("hdemucs", "HDemucs", **_WIDER, cac=False),
        1,
        2,
        8000,
    ),
    _row(
        "demucs",
        "HTDemucs",
        _demucs(
            "htdemucs",
            "HTDemucs",
            **_HYBRID,
            depth=3,
            t_layers=2,
            t_heads=4,
            samplerate=8000,
            segment=1,
        ),
        1,
        2,
        8000,
    ),
    _row(
        "demucs",
        "HTDemucs, bottleneck",
        _demucs(
            "htdemucs",
            "HTDemucs",
            **_HYBRID,
            depth=3,
            t_layers=2,
            t_heads=4,
            bottom_channels=48,
            samplerate=8000,
            segment=1,
        ),
        1,
        2,
        8000,
    ),
    _row("denoiser", "Demucs", _denoiser, 2, 1, 2000),
    _row("open-unmix", "OpenUnmix", _open_unmix, 2, 2, 65, 10),
]

# -- band-split transformers ----------------------------------------------------------------------


def _roformer(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import bs_roformer

        common = {"dim": 32, "depth": 1, "dim_head": 8, "heads": 4, "num_stems": 2}
        spectrum = {"stft_n_fft": 256, "stft_hop_length": 64, "stft_win_length": 256}
        return getattr(bs_roformer, name)(**{**common, **spectrum, "dim_freqs_in": 129, **options})

    return make


_BANDS = (*(2,) * 16, *(4,) * 8, 16, 16, 16, 17)
ROFORMERS = [
    _row("bs-roformer", "BSRoformer", _roformer("BSRoformer", freqs_per_bands=_BANDS), 1, 2000),
    _row(
        "bs-roformer",
        "BSRoformer, one residual stream",
        _roformer("BSRoformer", freqs_per_bands=_BANDS, num_residual_streams=1),
        1,
        2000,
    ),
    _row("bs-roformer", "MelBandRoformer", _roformer("MelBandRoformer", num_bands=12), 1, 2000),
    _row(
        "bs-roformer",
        "MelBandRoformer, one residual stream",
        _roformer("MelBandRoformer", num_bands=12, num_residual_streams=1),
        1,
        2000,
    ),
]

# -- Asteroid -------------------------------------------------------------------------------------


def _asteroid(model: str, *shape: int, **options: Any) -> ZooRow:
    def make() -> Any:
        import asteroid.models

        import sepprune_tp  # noqa: F401  (lets Asteroid's DCCRNet be built)

        return getattr(asteroid.models, model)(**options)

    return ZooRow("asteroid", model, make, noise(*(shape or (1, 2000))), importable=True)


_BLOCKS: dict[str, Any] = {"n_filters": 32, "bn_chan": 24, "hid_chan": 48}

ASTEROID = [
    _asteroid("ConvTasNet", n_src=2, **_BLOCKS, skip_chan=24, n_repeats=2, n_blocks=3),
    _asteroid(
        "DPRNNTasNet", n_src=2, n_filters=32, bn_chan=24, hid_size=24, n_repeats=2, chunk_size=20
    ),
    _asteroid("DPTNet", n_src=2, n_filters=32, n_heads=4, ff_hid=24, n_repeats=1, chunk_size=20),
    _asteroid("SuDORMRFNet", n_src=2, bn_chan=24, num_blocks=2, upsampling_depth=3),
    _asteroid("SuDORMRFImprovedNet", n_src=2, bn_chan=24, num_blocks=2, upsampling_depth=3),
    _asteroid("LSTMTasNet", n_src=2, n_filters=32, hid_size=24, rnn_type="lstm", n_layers=2),
    _asteroid("DeMask"),
    _asteroid("DCCRNet", 1, 8000, architecture="mini"),
    _asteroid("DCUNet", 1, 8000, architecture="mini", fix_length_mode="pad"),
    _asteroid("FasNetTAC", 1, 2, 4000, n_src=2, enc_dim=32, feature_dim=24, hidden_dim=24),
]

ROWS: list[ZooRow] = [
    *TORCHAUDIO,
    *DEMUCS,
    *ROFORMERS,
    *ASTEROID,
]
