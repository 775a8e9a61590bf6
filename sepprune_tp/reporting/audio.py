"""What a few mixtures sound and look like, as files inside a page.

Letters: S sources, T time.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of, eval_mode
from sepprune_tp.errors import require
from sepprune_tp.losses import best_permutation, si_sdr

__all__ = ["MOST_CLIPS", "Clip", "Signal", "listen", "loudest", "spectrogram", "wav"]

MOST_CLIPS = 3
SECONDS = 4.0  # of each signal at most
SAMPLES = 1_300_000  # of all signals of a page: 2.6 MB, 3.5 MB in base64
RANGE = 60.0  # dB that a spectrogram shows
COLOURS = 48
PEAK = 0.9  # of full scale, of the loudest signal of a mixture


@dataclass(frozen=True)
class Signal:
    """One recording.

    Attributes:
        name: What it is: ``mixture``, ``source 1``, ``pruned, estimate 1``.
        samples: Shape (T,), between -1 and 1.
        si_sdr: Of an estimate against its source, over the whole mixture, in dB.
    """

    name: str
    samples: Tensor
    si_sdr: float | None = None


@dataclass(frozen=True)
class Clip:
    """The beginning of one mixture, its sources, and what models made of it.

    Attributes:
        name: Of the mixture.
        rate: In Hz.
        signals: The mixture first.
    """

    name: str
    rate: int
    signals: Sequence[Signal]


def listen(
    models: Mapping[str, nn.Module],
    mixtures: Sequence[tuple[str, Tensor, Tensor]],
    rate: int,
) -> list[Clip]:
    """Separate a few mixtures with several models.

    An estimate stands where its source does and is as loud, since models that are trained on a
    scale-invariant loss have no level of their own.

    Args:
        models: By name; mixtures (1, T) in, estimates (1, S, T) out.
        mixtures: Name, mixture (T,) and sources (S, T). Only the first three are used.
        rate: In Hz.

    Returns:
        A clip a mixture. The signals of all hold so few samples that a page of them is of a few MB.
    """
    chosen = mixtures[:MOST_CLIPS]
    signals = sum(1 + len(sources) * (1 + len(models)) for _, _, sources in chosen)
    most = min(round(SECONDS * rate), SAMPLES // max(1, signals))
    return [
        Clip(name, rate, _signals(models, mixture.float(), sources.float(), most))
        for name, mixture, sources in chosen
    ]


def wav(samples: Tensor, rate: int) -> str:
    """A signal (T,) as a ``data:`` URI of a WAV file, 16 bit, mono."""
    whole = (samples.clamp(-1, 1) * 32767).round().numpy().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(whole.tobytes())
    return _data_uri("audio/wav", buffer.getvalue())


def spectrogram(samples: Tensor, level: float) -> str:
    """The spectrogram of a signal (T,) as a ``data:`` URI of a PNG, from 0 Hz at the bottom.

    Args:
        samples: The signal.
        level: Largest magnitude of those that it is to be compared with, see :func:`loudest`.
    """
    image = require("PIL.Image", "cli", "Drawing a spectrogram")
    matplotlib = require("matplotlib", "cli", "Drawing a spectrogram")
    decibels = 20 * torch.log10(_magnitudes(samples) / max(level, 1e-12) + 1e-12)
    share = (1 + decibels / RANGE).clamp(0, 1).flip(0)
    indices = (share * (COLOURS - 1)).round().to(torch.uint8).numpy()
    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3]
    picture = image.fromarray(indices)
    picture.putpalette((colours * 255).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def loudest(samples: Tensor) -> float:
    """Largest magnitude of the spectrogram of a signal (T,)."""
    return float(_magnitudes(samples).max())


@torch.no_grad()
def _signals(
    models: Mapping[str, nn.Module], mixture: Tensor, sources: Tensor, most: int
) -> list[Signal]:
    """All signals of one mixture at one gain, cut to the first samples."""
    found: list[tuple[str, Tensor, float | None]] = [("mixture", mixture, None)]
    found += [(f"source {number}", source, None) for number, source in enumerate(sources, 1)]
    for name, model in models.items():
        estimates = _separated(model, mixture, sources)
        ratios = si_sdr(estimates[None], sources[None])[0].tolist()
        for index, estimate in enumerate(estimates):
            level = _rms(sources[index]) / max(_rms(estimate), 1e-12)
            found.append((f"{name}, estimate {index + 1}", level * estimate, ratios[index]))
    gain = PEAK / max(max(float(samples.abs().max()) for _, samples, _ in found), 1e-12)
    return [Signal(name, gain * samples[:most], ratio) for name, samples, ratio in found]


def _separated(model: nn.Module, mixture: Tensor, sources: Tensor) -> Tensor:
    """Estimates (S, T) in the order of the sources, without a mean."""
    with eval_mode(model):
        estimates = model(mixture[None].to(device_of(model))).float().cpu()
    ordered = best_permutation(estimates, sources[None])[0]
    return ordered - ordered.mean(-1, keepdim=True)


def _rms(samples: Tensor) -> float:
    return float(samples.square().mean().sqrt())


def _magnitudes(samples: Tensor) -> Tensor:
    """Magnitudes (bins, frames): 129 bins, about 240 frames."""
    padded = torch.nn.functional.pad(samples, (0, max(0, 512 - len(samples))))
    found: Any = torch.stft(
        padded,
        256,
        hop_length=max(64, len(padded) // 240),
        window=torch.hann_window(256),
        return_complex=True,
    )
    magnitudes: Tensor = found.abs()
    return magnitudes


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
