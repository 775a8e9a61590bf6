"""Spectrograms of a mixture, its sources and their estimates."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import stft
from torch import Tensor

from sepprune_tp.files import make_folder, written

from .plots import FOLDER

__all__ = ["spectrogram_plot"]

FRAME, RANGE = 0.032, 60.0  # seconds; dB below the loudest


def spectrogram_plot(name: str, signals: Mapping[str, Tensor], rate: int) -> None:
    """Write ``plots/heard_{name}.png``: one panel for every signal (T,)."""
    figure, axes = plt.subplots(1, len(signals), figsize=(3 * len(signals), 2.4), sharey=True)
    for axis, (part, signal) in zip(axes, signals.items(), strict=True):
        length = round(FRAME * rate)
        frequencies, times, values = stft(signal.numpy(), rate, nperseg=length)
        level = 20 * np.log10(np.abs(values) + 1e-9)
        top = level.max()
        axis.pcolormesh(times, frequencies / 1000, level, vmin=top - RANGE, vmax=top)
        axis.set_title(part, fontsize=9)
        axis.set_xlabel("s", fontsize=8)
    axes[0].set_ylabel("kHz", fontsize=8)
    figure.tight_layout()
    path = make_folder(FOLDER) / f"heard_{name}.png"
    with written(path) as scratch:
        figure.savefig(scratch, format="png", dpi=70, metadata={"Software": None})
    plt.close(figure)
