"""Spectrograms of a mixture, its sources and their estimates by several models."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import stft

from sepprune_tp.files import make_folder, written

from .plots import FOLDER

__all__ = ["spectrogram_plot"]

FRAME, RANGE = 0.032, 60.0  # seconds; dB below the loudest
COLOURS = 64  # of the file
Samples = NDArray[Any]


def spectrogram_plot(name: str, signals: Mapping[str, Sequence[Samples]], rate: int) -> None:
    """Write ``plots/heard_{name}.png``: a row of panels for each entry, a panel for each signal."""
    wide = max(len(row) for row in signals.values())
    size = (3.4 * wide, 1.25 * len(signals))
    figure, axes = plt.subplots(
        len(signals), wide, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for panels, (told, row) in zip(axes, signals.items(), strict=True):
        for axis, signal in zip(panels, row, strict=False):
            frequencies, times, values = stft(signal, rate, nperseg=round(FRAME * rate))
            level = 20 * np.log10(np.abs(values) + 1e-9)
            top = level.max()
            axis.pcolormesh(times, frequencies / 1000, level, vmin=top - RANGE, vmax=top)
        for axis in panels[len(row) :]:
            axis.axis("off")
        panels[0].set_title(told, fontsize=8, loc="left")
        panels[0].set_ylabel("kHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("s", fontsize=8)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    plt.close(figure)
    with written(make_folder(FOLDER) / f"heard_{name}.png") as scratch:
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(scratch, "PNG", optimize=True)
