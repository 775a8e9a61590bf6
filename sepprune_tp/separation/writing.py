"""Sources of any length on their way into files: kept on disk until their level is known.

Letters: S sources, T time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sepprune_tp.files import written

from ..errors import require

__all__ = ["Sources"]

Signals = NDArray[np.float32]
_AT_ONCE = 1 << 18
_WAV_BYTES = 4_000_000_000
"""What a WAV header can count; longer ones become RF64, which the same programs read."""


class Sources:
    """Estimates as they come, then as files at a level that adds up to the mixture.

    They are kept in an unnamed file; what is remembered is S x S numbers.

    Args:
        folder: Where the files will be, and the unnamed one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed on exit)
        self._count = self._length = 0
        self._peaks = self._gram = self._cross = np.zeros(0)

    def add(self, mixture: Signals, sources: Signals) -> None:
        """Append estimates (S, n) of a stretch (n,)."""
        if not self._count:
            self._count = len(sources)
            self._peaks, self._cross = np.zeros((2, self._count))
            self._gram = np.zeros((self._count, self._count))
        for at in range(0, len(mixture), _AT_ONCE):
            part = sources[:, at : at + _AT_ONCE]
            exact = part.astype(np.float64)
            self._gram += exact @ exact.T
            self._cross += exact @ mixture[at : at + _AT_ONCE]
            self._peaks = np.maximum(self._peaks, np.abs(exact).max(1))
            self._file.write(np.ascontiguousarray(part.T).tobytes())
            self._length += part.shape[1]

    def gains(self) -> NDArray[np.float64]:
        """What each source is multiplied by (S,): least squares, and none beyond 1."""
        gains = np.linalg.lstsq(self._gram, self._cross, rcond=None)[0]
        loudest = float(np.max(np.abs(gains) * self._peaks))
        return np.asarray(gains / max(1.0, loudest))

    def write(self, stem: str, rate: int) -> list[Path]:
        """Write ``{stem}_s1.wav``, ...; all of them appear once all are written.

        Args:
            stem: Start of their names.
            rate: In Hz.

        Returns:
            The files, 16 bit.
        """
        soundfile: Any = require("soundfile", "train", "Reading and writing recordings")
        format = "WAV" if 2 * self._length < _WAV_BYTES else "RF64"
        paths = [self._folder / f"{stem}_s{number + 1}.wav" for number in range(self._count)]
        gains = self.gains()
        with ExitStack() as stack:  # each appears when the stack ends well
            hidden = [stack.enter_context(written(path)) for path in paths]
            for number, path in enumerate(hidden):
                with soundfile.SoundFile(path, "w", rate, 1, "PCM_16", format=format) as file:
                    for part in self._parts():
                        file.write((part[:, number] * gains[number]).astype(np.float32))
        return paths

    def _parts(self) -> Iterator[Signals]:
        """What was added, (n, S) at a time."""
        self._file.seek(0)
        width = 4 * self._count
        while data := self._file.read(_AT_ONCE * width):
            yield np.frombuffer(data, np.float32).reshape(-1, self._count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
