"""Recordings of single speakers: reading a folder of them, trimming and levelling one.

Letters: T time. Levels are in dB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepprune_tp.errors import DataError, InputError

from .audio import MonoFile, Signal

__all__ = ["LEVEL", "SPLITS", "active_frames", "load_recordings", "prepare_utterance"]

SPLITS: Mapping[str, tuple[int, float]] = {
    "test": (0, 5),
    "train": (5, float("inf")),
    "val": (5, 8),
    "fit": (8, float("inf")),
    "all": (0, float("inf")),
}
"""Recording indices ``[first, end)`` of each split; ``train`` is ``val`` and ``fit`` together."""

LEVEL = 0.05
"""RMS of a prepared utterance: -26 dBFS leaves headroom for a sum of speakers."""

FRAME = 0.02  # s, for energy decisions
SILENCE = -35.0  # dB below the loudest frame: a frame that counts as silent


def load_recordings(
    folder: str | Path, split: str = "train", *, sample_rate: int = 8000
) -> dict[str, list[Signal]]:
    """Read a folder in the layout of the Free Spoken Digit Dataset.

    Files are ``recordings/{digit}_{speaker}_{index}.flac`` or ``.wav``, mono; the index says which
    split a recording belongs to (:data:`SPLITS`). All splits hold the same speakers, so results
    are speaker-dependent.

    Args:
        folder: The folder that holds ``recordings/``.
        split: ``"test"`` (indices 0 to 4), ``"train"`` (5 and up), ``"val"`` (5 to 7), ``"fit"``
            (8 and up) or ``"all"``.
        sample_rate: Rate that every file must have, in Hz.

    Returns:
        Speaker name to recordings, each ``(T,)`` float32 as stored, in order of file name.

    Raises:
        InputError: If the split is unknown.
        DataError: If the folder has no such recordings, or a file has another rate, several
            channels, or cannot be read.
        MissingExtraError: If ``soundfile`` is not installed.
    """
    if split not in SPLITS:
        raise InputError(f"Unknown split {split!r}; the splits are {', '.join(SPLITS)}.")
    directory = Path(folder) / "recordings"
    first, end = SPLITS[split]
    recordings: dict[str, list[Signal]] = {}
    for path in sorted((*directory.glob("*.flac"), *directory.glob("*.wav"))):
        _, _, rest = path.stem.partition("_")
        speaker, _, index = rest.rpartition("_")
        if speaker and index.isdecimal() and first <= int(index) < end:
            recordings.setdefault(speaker, []).append(_whole(path, sample_rate))
    if not recordings:
        raise DataError(
            f"No recordings of the split {split!r} in {directory}"
            f"{'' if directory.is_dir() else ' (the folder does not exist)'}. Expected files "
            "{digit}_{speaker}_{index}.flac or .wav, as in the Free Spoken Digit Dataset."
        )
    return recordings


def _whole(path: Path, sample_rate: int) -> Signal:
    with MonoFile(path, sample_rate) as file:
        return file.read(0, file.frames)


def prepare_utterance(signal: NDArray[Any], sample_rate: int) -> Signal | None:
    """Remove DC, trim silence at both ends and bring the RMS to -26 dBFS.

    Args:
        signal: ``(T,)``, any level.
        sample_rate: In Hz.

    Returns:
        ``(T',)`` float32 with ``T' <= T``, or None if the recording is silent or empty.

    Raises:
        DataError: If the signal is not one-dimensional or holds NaN or infinity.
    """
    signal = np.asarray(signal, dtype=np.float64)
    if signal.ndim != 1 or not np.isfinite(signal).all():
        raise DataError(
            f"An utterance must be a finite one-dimensional array, got shape {signal.shape}"
            f"{'' if np.isfinite(signal).all() else ' with NaN or infinity'}. Use one channel, and "
            "leave out broken recordings."
        )
    if not signal.size:
        return None
    signal = signal - signal.mean()
    active = np.flatnonzero(active_frames(signal, sample_rate))
    if not active.size:
        return None
    frame = _frame_length(sample_rate)
    signal = signal[active[0] * frame : (active[-1] + 1) * frame]
    scale = LEVEL / np.sqrt(np.mean(np.square(signal)))
    return np.asarray(signal * scale, dtype=np.float32)


def _frame_length(sample_rate: int) -> int:
    """Samples in one frame of 20 ms."""
    return max(1, round(FRAME * sample_rate))


def active_frames(signal: NDArray[Any], sample_rate: int) -> NDArray[np.bool_]:
    """Which frames of 20 ms are within 35 dB of the loudest; none if all is below -100 dBFS."""
    frame = _frame_length(sample_rate)
    padded = np.pad(signal, (0, -len(signal) % frame)).reshape(-1, frame)
    power = np.square(padded, dtype=np.float64).mean(-1)
    return np.asarray((power > power.max() * 10 ** (SILENCE / 10)) & (power > 1e-10))
