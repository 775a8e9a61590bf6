"""Mixtures stored with their sources: whole files, or random segments of them.

Letters: S sources, T time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from sepprune_tp.errors import DataError, InputError

from .audio import MonoFile

__all__ = ["ENDLESS", "MixtureFiles", "StoredMixtures"]

Item = tuple[Tensor, Tensor]
Stretch = Callable[[int], tuple[int, int]]  # samples in a file: first one, and how many

ENDLESS = 1_000_000
"""Size of a data set that is as large as wanted."""

SILENCE = 1e-8  # mean square below which a source counts as silent: -80 dBFS
MAX_DRAWS = 50  # attempts at a segment in which every source is heard


@dataclass(frozen=True)
class MixtureFiles:
    """Where one mixture and its sources are.

    Attributes:
        mixture: File of the mixture.
        sources: Files of its sources, S of them.
    """

    mixture: Path
    sources: tuple[Path, ...]


class StoredMixtures(Dataset[Item]):
    """Mixtures read from files, each item a function of the seed and its index alone."""

    def __init__(
        self,
        files: Sequence[MixtureFiles],
        *,
        sample_rate: int,
        origin: str,
        seconds: float | None = None,
        seed: int = 0,
        size: int = ENDLESS,
    ) -> None:
        """Look at the first mixture; all are read when they are asked for.

        Args:
            files: Of the mixtures, all with the same number of sources, one channel each.
            sample_rate: That every file must have, in Hz.
            origin: Where the files were listed, for messages.
            seconds: Length of random segments, shorter files padded with zeros; None gives whole
                files once.
            seed: Of the segments.
            size: Number of segments.

        Raises:
            InputError: If a number is out of range.
            DataError: If there are no files, or the first ones cannot be used.
            MissingExtraError: If soundfile is not installed.
        """
        self.files, self.sample_rate, self.origin, self.seed = files, sample_rate, origin, seed
        self.size = size
        some = seconds is None or (math.isfinite(seconds) and round(seconds * sample_rate) > 0)
        if min(sample_rate, size) < 1 or seed < 0 or not some:
            raise InputError(
                "Mixtures need sample_rate, seconds * sample_rate and size of at least 1 and a "
                f"seed of at least 0, got {sample_rate=}, {seconds=}, {size=}, {seed=}."
            )
        self.samples = None if seconds is None else round(seconds * sample_rate)
        if not files:
            raise DataError(f"{origin} has no mixtures. Check that it was made completely.")
        self.n_src = len(files[0].sources)
        self._read(files[0], lambda _: (0, 0))

    def identity(self) -> str:
        """Changes with names and sizes of the files, and with what is taken of them."""
        digest = hashlib.sha256(repr((self.sample_rate, self.samples, self.size)).encode())
        for files in self.files:
            for path in (files.mixture, *files.sources):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        return f"{len(self.files)} mixtures {digest.hexdigest()[:16]}, seed {self.seed}"

    def __len__(self) -> int:
        """Number of files, or of segments."""
        return len(self.files) if self.samples is None else self.size

    def __getitem__(self, index: int) -> Item:
        """One mixture.

        Args:
            index: From 0; negative counts from the end.

        Returns:
            The mixture ``(T,)`` and its sources ``(S, T)``, float32 as stored.

        Raises:
            IndexError: If the index is not below the size.
            DataError: If a file is broken, or has another rate, length or number of channels than
                it should; if a source is silent, in all of the segments tried.
        """
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"Index {index} is out of range for {len(self)} mixtures.")
        if self.samples is None:
            return self._whole(self.files[position])
        generator = np.random.default_rng([self.seed, position])
        for _ in range(MAX_DRAWS):
            files = self.files[int(generator.integers(len(self.files)))]
            mixture, sources = self._read(files, partial(_segment, generator, self.samples))
            if not _silent(sources):
                missing = (0, self.samples - mixture.shape[-1])
                return pad(mixture, missing), pad(sources, missing)
        raise DataError(
            f"{MAX_DRAWS} segments of {self.origin} all had a silent source, the last one in "
            f"{files.mixture}. Use longer segments, or leave out mixtures whose speakers hardly "
            "overlap."
        )

    def _whole(self, files: MixtureFiles) -> Item:
        """All of one mixture."""
        mixture, sources = self._read(files, lambda frames: (0, frames))
        if silent := _silent(sources):
            raise DataError(
                f"{files.sources[silent[0]]} is silent all through, so there is nothing to "
                "separate. Leave its mixture out, or make the file again."
            )
        return mixture, sources

    def _read(self, files: MixtureFiles, stretch: Stretch) -> Item:
        """The same stretch of all parts of one mixture."""
        with MonoFile(files.mixture, self.sample_rate) as mixture:
            frames = mixture.frames
            start, count = stretch(frames)
            mixed = mixture.read(start, count)
        signals = []
        for path in files.sources:
            with MonoFile(path, self.sample_rate) as source:
                if source.frames != frames:
                    raise DataError(
                        f"{path} has {source.frames} samples, its mixture {files.mixture} "
                        f"{frames}: different lengths. Cut both alike, or see whether they belong "
                        "together."
                    )
                signals.append(source.read(start, count))
        return torch.from_numpy(mixed), torch.from_numpy(np.stack(signals))


def _segment(generator: np.random.Generator, samples: int, frames: int) -> tuple[int, int]:
    """Start and length of a random segment, all of a shorter file."""
    return int(generator.integers(max(1, frames - samples + 1))), min(samples, frames)


def _silent(sources: Tensor) -> list[int]:
    """Which sources (S, T) are silent."""
    quiet = ~(sources.double().square().mean(-1) > SILENCE)  # also an empty one, whose mean is NaN
    return [int(index) for index in torch.nonzero(quiet).flatten()]
