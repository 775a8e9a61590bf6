"""Separate a recording into one WAV file per source."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sepprune_tp._modes import device_of, eval_mode
from sepprune_tp.errors import DataError, InputError, require

__all__ = ["separate_file"]

Signal = NDArray[np.float32]


def separate_file(
    model: nn.Module,
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
) -> list[Path]:
    """Write ``{stem}_s1.wav``, ``{stem}_s2.wav``, ... beside each other.

    A recording of another rate than the model's is resampled, with a warning; the sources are
    written at the model's rate, 16 bit. Models trained on a scale-invariant loss return sources at
    any level: they are scaled to add up to the mixture as nearly as possible.

    Args:
        model: Mixtures (1, T) in, estimates (1, S, T) out. Used in eval mode and left as it was.
        path: A recording in any format that libsndfile reads.
        out_dir: Folder for the sources; made when missing.
        sample_rate: The model's, in Hz; None takes ``model.sample_rate``.
        channel: Which channel of a recording of several, from 0.

    Returns:
        The files, in the order of the model's sources.

    Raises:
        DataError: If the recording cannot be read, is empty or silent, or has several channels and
            none was picked.
        InputError: If the model's rate is unknown, the channel does not exist, or the model does
            not return (1, S, T).
        MissingExtraError: If soundfile or SciPy is not installed.
    """
    soundfile = require("soundfile", "train", "Reading and writing recordings")
    path, rate = Path(path), _model_rate(model, sample_rate)
    mixture, file_rate = _read(soundfile, path, channel)
    if file_rate != rate:
        warnings.warn(
            f"{path} has {file_rate} Hz, the model {rate} Hz: resampled, and the sources are "
            f"written at {rate} Hz.",
            stacklevel=2,
        )
        mixture = _resample(mixture, file_rate, rate)
    sources = _fit_to(mixture, _separate(model, mixture))
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(soundfile, folder / f"{path.stem}_s{number}.wav", source, rate)
        for number, source in enumerate(sources, start=1)
    ]


def _model_rate(model: nn.Module, sample_rate: int | None) -> int:
    known: float | None = getattr(model, "sample_rate", None)
    rate = known if sample_rate is None else sample_rate
    if rate is None:
        raise InputError(
            f"{type(model).__name__} does not say its sample rate. Pass sample_rate=, in Hz."
        )
    if sample_rate is not None and known is not None and float(known) != sample_rate:
        raise InputError(
            f"sample_rate={sample_rate} was passed, but {type(model).__name__} was made for "
            f"{float(known):g} Hz. Leave sample_rate out; recordings are resampled."
        )
    return round(float(rate))


def _read(soundfile: Any, path: Path, channel: int | None) -> tuple[Signal, int]:
    """One channel (T,) and its rate in Hz."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(
            f"{path} cannot be read as audio ({error}). Check the path, or convert it to WAV."
        ) from error
    channels = samples.shape[1]
    if channel is None and channels > 1:
        raise DataError(
            f"{path} has {channels} channels and the model takes one. Pick one with channel=0 to "
            f"channel={channels - 1}."
        )
    if channel is not None and not 0 <= channel < channels:
        raise InputError(f"channel={channel}, but {path} has {channels}, counted from 0.")
    signal = samples[:, channel or 0]
    if not np.isfinite(signal).all() or not np.any(signal):
        raise DataError(f"{path} is empty, silent, or holds NaN: there is nothing to separate.")
    return signal, int(rate)


def _resample(signal: Signal, rate: int, target: int) -> Signal:
    scipy_signal = require("scipy.signal", "train", "Resampling recordings")
    divisor = math.gcd(rate, target)
    resampled = scipy_signal.resample_poly(signal, target // divisor, rate // divisor)
    return np.asarray(resampled, dtype=np.float32)


def _separate(model: nn.Module, mixture: Signal) -> Signal:
    """Estimates (S, T) of a mixture (T,), no gradients, the modules' modes restored."""
    with eval_mode(model), torch.no_grad():
        estimates = model(torch.from_numpy(mixture.copy()).to(device_of(model)).unsqueeze(0))
    shape = tuple(estimates.shape) if isinstance(estimates, torch.Tensor) else type(estimates)
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[::2] != (1, len(mixture)):
        raise InputError(
            f"{type(model).__name__} answered a mixture of shape (1, {len(mixture)}) with "
            f"{shape}; expected (1, S, {len(mixture)})."
        )
    return np.asarray(estimates[0].float().cpu().numpy())


def _fit_to(mixture: Signal, estimates: Signal) -> Signal:
    """Scale each estimate for the least squared error of their sum, and all of them below 1."""
    gains = np.linalg.lstsq(estimates.T.astype(np.float64), mixture, rcond=None)[0]
    scaled = estimates * gains[:, None]
    return np.asarray(scaled / max(1.0, float(np.abs(scaled).max())), dtype=np.float32)


def _write(soundfile: Any, path: Path, source: Signal, rate: int) -> Path:
    """Write 16-bit WAV through a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    soundfile.write(temporary, source, rate, format="WAV", subtype="PCM_16")
    os.replace(temporary, path)
    return path
