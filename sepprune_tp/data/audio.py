"""Audio files of one channel at a given rate, and what is said of those that are not.

Letters: T time.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sepprune_tp.errors import DataError, require

__all__ = ["MonoFile", "Signal"]

Signal = NDArray[np.float32]
_LONGEST = 1 << 28
"""Samples that are read at once: 9 hours at 8 kHz, 1 GB."""
_AT_ONCE = 1 << 20
"""Samples that are decoded at a time, so that memory follows what is there, not what is claimed."""


class MonoFile:
    """An open file of one channel."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        """Open it and read its header.

        Args:
            path: WAV, FLAC or whatever else libsndfile reads.
            sample_rate: That it must have, in Hz.

        Raises:
            DataError: If it cannot be read, has another rate or several channels.
            MissingExtraError: If soundfile is not installed.
        """
        soundfile = require("soundfile", "train", "Reading recordings and mixtures")
        self.path = path
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (RuntimeError, OSError, TypeError, ValueError) as error:  # TypeError: *.raw
            raise self._unreadable(error) from error
        channels, rate = self._file.channels, self._file.samplerate
        if rate != sample_rate or channels != 1:
            self._file.close()
            raise DataError(
                f"{path} has {channels} channel(s) at {rate} Hz; this needs 1 at {sample_rate} Hz. "
                f"Resample or downmix all files, or use a model for {rate} Hz."
            )

    @property
    def frames(self) -> int:
        """Samples in the file, T."""
        return int(self._file.frames)

    def read(self, start: int, count: int) -> Signal:
        """A stretch, ``(count,)`` float32 as stored.

        Args:
            start: First sample.
            count: Number of samples; the file must have them.

        Raises:
            DataError: If it is too long to be read at once, the file ends early, cannot be
                decoded, or holds NaN or infinity.
        """
        if count > _LONGEST:
            raise DataError(
                f"{self.path} claims {count} samples, more than are read at once ({_LONGEST}). Cut "
                "it into shorter files; if it is small, its header is damaged."
            )
        parts: list[Signal] = []
        try:
            self._file.seek(start)
            for at in range(0, count, _AT_ONCE):
                wanted = min(_AT_ONCE, count - at)
                parts.append(self._file.read(wanted, dtype="float32"))
                if len(parts[-1]) != wanted:
                    raise self._unreadable(f"{count} samples from {start} on were promised")
        except (RuntimeError, OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise self._unreadable(error) from error
        signal = np.concatenate(parts) if parts else np.empty(0, np.float32)
        if not np.isfinite(signal).all():
            raise DataError(f"{self.path} holds NaN or infinity. Leave it out, or make it again.")
        return np.asarray(signal, dtype=np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _unreadable(self, reason: object) -> DataError:
        return DataError(
            f"Cannot read {self.path}: {reason}. The file may be truncated: fetch or make it again."
        )
