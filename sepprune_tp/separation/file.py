"""``separate_file``: a recording in, one WAV file per source out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sepprune_tp.files import make_folder, named_failures

from .._modes import device_of, eval_mode
from ..errors import DataError, InputError
from .blocks import Blocks, stitched
from .reading import Recording, Signal
from .writing import Sources

__all__ = ["separate_file"]


def separate_file(
    model: nn.Module,
    path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    channel: int | None = None,
    block: float | None = None,
    overlap: float | None = None,
) -> list[Path]:
    """Write ``{stem}_s1.wav``, ``{stem}_s2.wav``, ... beside each other.

    A recording of another rate than the model's is resampled, with a warning; the sources are
    written at the model's rate, 16 bit. Models trained on a scale-invariant loss return sources at
    any level: they are scaled to add up to the mixture as nearly as possible.

    A recording longer than a minute is separated in blocks that overlap, in memory that does not
    depend on its length (the estimates wait in ``out_dir``, 4 bytes a sample and source). Sources
    keep their order where two blocks overlap by being compared there: after a pause longer than the
    overlap, speakers may come back in another order, so make the overlap longer than pauses.

    Args:
        model: Mixtures (1, T) in, estimates (1, S, T) out. Used in eval mode and left as it was.
        path: A recording in any format that libsndfile reads.
        out_dir: Folder for the sources; made when missing. They appear once all are written.
        sample_rate: The model's, in Hz; None takes ``model.sample_rate``.
        channel: Which channel of a recording of several, from 0.
        block: Seconds to separate at a time; None for one pass over recordings of up to a minute,
            and blocks of 30 seconds for longer ones.
        overlap: Seconds that blocks share, at most half a block; None for a quarter of a block.

    Returns:
        The files, in the order of the model's sources in the first block.

    Raises:
        DataError: If the recording cannot be read, is cut off, empty or silent, or has several
            channels and none was picked; if the model gives NaN.
        InputError: If the model's rate is unknown, the channel does not exist, block and overlap do
            not fit each other, or the model does not return (1, S, T).
        MissingExtraError: If soundfile or SciPy is not installed.
    """
    path, rate = Path(path), _model_rate(model, sample_rate)
    recording = Recording(path, rate, channel)
    try:
        blocks = Blocks.of(recording.length, rate, block, overlap)
        if recording.file_rate != rate:
            warnings.warn(
                f"{path} has {recording.file_rate} Hz, the model {rate} Hz: resampled, and the "
                f"sources are written at {rate} Hz.",
                stacklevel=2,
            )
        return _separate_all(model, recording, blocks, Path(out_dir), rate)
    finally:
        recording.close()


def _separate_all(
    model: nn.Module, recording: Recording, blocks: Blocks, folder: Path, rate: int
) -> list[Path]:
    """Read, separate and keep block by block; then write."""
    make_folder(folder)
    heard, length = False, recording.length
    target = folder / f"{recording.path.stem}_s1.wav"
    with named_failures(target), eval_mode(model), Sources(folder) as sources:
        for piece in stitched(recording.read, lambda x: _separate(model, x), length, blocks):
            heard = heard or bool(np.any(piece.mixture))
            sources.add(piece.mixture, piece.sources)
        if not heard:
            raise DataError(
                f"{recording.path} is empty, silent, or holds NaN: nothing to separate."
            )
        return sources.write(recording.path.stem, rate)


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


def _separate(model: nn.Module, mixture: Signal) -> Signal:
    """Estimates (S, T) of a mixture (T,), without gradients."""
    with torch.no_grad():
        estimates = model(torch.from_numpy(mixture).to(device_of(model)).unsqueeze(0))
    shape = tuple(estimates.shape) if isinstance(estimates, torch.Tensor) else type(estimates)
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[::2] != (1, len(mixture)):
        raise InputError(
            f"{type(model).__name__} answered a mixture of shape (1, {len(mixture)}) with "
            f"{shape}; expected (1, S, {len(mixture)})."
        )
    found = np.array(estimates[0].float().cpu().numpy())
    if not np.isfinite(found).all():
        raise DataError(
            f"{type(model).__name__} gives NaN or infinity for a stretch of {len(mixture)} samples "
            "without any. Check its weights."
        )
    return found
