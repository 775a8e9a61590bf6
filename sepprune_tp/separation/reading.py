"""A recording read in stretches, at the rate of a model: memory does not grow with its length.

Letters: T time.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, InputError, require

__all__ = ["Recording", "Signal"]

Signal = NDArray[np.float32]
_RATES = (1000, 1_000_000)
_LONGEST = 1 << 40
"""Samples that no recording has; headers of unknown length claim more."""
_AT_ONCE = 1 << 20
"""Samples of all channels that are decoded at a time."""
_REACH = 10
"""Half length of ``scipy.signal.resample_poly``'s filter, in samples of the lower rate."""
_UNKNOWN = 0xFFFFFFFF
_CHUNKS = 1000
"""Parts of a WAV file before its samples; some programs write a dozen."""
_HOUR, _SPARSE = 3600, 1000
"""From an hour on, a recording of speech has at least so many bits a second, however packed."""
_FINEST = 1 << 16
"""Largest factor of a resampling; 44.1 kHz to 8 kHz has 441 and 80."""


class Recording:
    """One channel of an open file, resampled where it has another rate.

    Args:
        path: Any format that libsndfile reads.
        rate: Of the model, in Hz.
        channel: Which channel of several, from 0; None for a file of one.

    Attributes:
        path: The file.
        file_rate: Its own rate in Hz.
        length: Samples at the model's rate, T.

    Raises:
        DataError: If it cannot be read, is empty, claims more than the file holds, or has several
            channels and none was picked.
        InputError: If there is no such channel.
        MissingExtraError: If soundfile is not installed.
    """

    def __init__(self, path: Path, rate: int, channel: int | None) -> None:
        soundfile = require("soundfile", "train", "Reading and writing recordings")
        self.path = path
        _check_riff(path)
        try:
            self._file: Any = soundfile.SoundFile(path)
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # TypeError: *.raw
            raise self._unreadable(error) from error
        try:
            self._channel = self._check(channel)
        except BaseException:
            self._file.close()
            raise
        self.file_rate = int(self._file.samplerate)
        divisor = math.gcd(rate, self.file_rate)
        self._up, self._down = rate // divisor, self.file_rate // divisor
        if max(self._up, self._down) > _FINEST:
            self._file.close()
            raise DataError(
                f"{path} has {self.file_rate} Hz, which cannot be brought to {rate} Hz in small "
                "steps. If that is its rate, resample it with another program first."
            )
        self.length = -(-int(self._file.frames) * self._up // self._down)

    def read(self, start: int, count: int) -> Signal:
        """Samples ``start`` to ``start + count`` at the model's rate, (count,); all must exist.

        Raises:
            DataError: If the file ends early, cannot be decoded, or holds NaN or infinity.
        """
        if self._up == self._down:
            return self._read(start, count)
        resample = require("scipy.signal", "train", "Resampling recordings").resample_poly
        reach = _REACH * max(self._up, self._down) // self._up + 2
        first = max(0, start * self._down // self._up - reach) // self._down * self._down
        last = min(int(self._file.frames), (start + count) * self._down // self._up + reach + 1)
        given = self._read(first, last - first)
        offset = start - first // self._down * self._up
        found = resample(given, self._up, self._down)[offset : offset + count]
        return np.asarray(found, dtype=np.float32)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check(self, channel: int | None) -> int:
        """Refuse what the header claims; which channel to read."""
        frames, channels, rate = (
            int(getattr(self._file, name)) for name in ("frames", "channels", "samplerate")
        )
        if not _RATES[0] <= rate <= _RATES[1] or frames > _LONGEST:
            raise DataError(
                f"{self.path} claims {frames} samples at {rate} Hz, which no recording has. Its "
                "header is damaged: make the file again, or convert it."
            )
        bits = 8 * self.path.stat().st_size
        if frames > _HOUR * rate and bits * rate < _SPARSE * frames:
            raise DataError(
                f"{self.path} claims {frames / rate / _HOUR:.3g} hours in {bits // 8} bytes, too "
                "few for speech: it is damaged, or made to fill a disk. Convert it to WAV."
            )
        if channel is None and channels > 1:
            raise DataError(
                f"{self.path} has {channels} channels and the model takes one. Pick one with "
                f"channel=0 to channel={channels - 1}."
            )
        if channel is not None and not 0 <= channel < channels:
            raise InputError(f"channel={channel}, but {self.path} has {channels}, counted from 0.")
        if frames <= 0:
            raise DataError(f"{self.path} is empty, silent, or holds NaN: nothing to separate.")
        return channel or 0

    def _read(self, start: int, count: int) -> Signal:
        """Samples as they are in the file."""
        found = np.empty(count, np.float32)
        step = max(1, _AT_ONCE // int(self._file.channels))
        try:
            self._file.seek(start)
            for at in range(0, count, step):
                wanted = min(step, count - at)
                part = self._file.read(wanted, dtype="float32", always_2d=True)
                if len(part) != wanted:
                    raise self._unreadable(
                        f"it ends after {start + at + len(part)} of {self._file.frames} samples"
                    )
                found[at : at + wanted] = part[:, self._channel]
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise self._unreadable(error) from error
        if not np.isfinite(found).all():
            raise DataError(f"{self.path} is empty, silent, or holds NaN: nothing to separate.")
        return found

    def _unreadable(self, reason: object) -> DataError:
        return DataError(
            f"{self.path} cannot be read as audio ({reason}). Check the path, or convert it to WAV."
        )


def _check_riff(path: Path) -> None:
    """Refuse a WAV file whose header claims more samples than the file holds."""
    try:
        held = path.stat().st_size
        with open(path, "rb") as file:
            if file.read(4) not in (b"RIFF", b"RIFX"):
                return
            order = ">" if _is_big(path) else "<"
            at = 12
            for _ in range(_CHUNKS):
                if at + 8 > held:
                    return
                file.seek(at)
                kind, size = struct.unpack(f"{order}4sI", file.read(8))
                if kind == b"data":
                    break
                at += 8 + size + size % 2
            else:
                return
    except (OSError, struct.error):
        return  # whoever opens it says why
    if at + 8 + size > held:
        how = "an unknown number of" if size == _UNKNOWN else f"{size}"
        raise DataError(
            f"{path} claims {how} bytes of audio and holds {held - at - 8}: it was cut off, was "
            "written to a pipe, or its header is wrong. Fetch it again, or have the header written "
            f"anew: ffmpeg -i {path.name} -c copy fixed.wav"
        )


def _is_big(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"RIFX"
