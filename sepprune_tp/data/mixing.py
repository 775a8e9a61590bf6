"""Mixtures of different speakers, made from their recordings as they are asked for.

Letters: S sources, T time. Sources are ordered at random, levels are in dB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sepprune_tp.errors import DataError, InputError

from .audio import Signal
from .recordings import LEVEL, active_frames, prepare_utterance

__all__ = ["MixtureDataset"]

Item = tuple[Tensor, Tensor]

MIN_ACTIVE = 0.5  # share of a segment's frames that must not be silent
MAX_DRAWS = 50  # attempts at a segment before its speaker is reported


class MixtureDataset(Dataset[Item]):
    """Mixtures of different speakers, each item a function of the seed and its index alone.

    A source is a run of random utterances of one speaker, cut to length; the sources' levels,
    relative to the first's, are uniform in ±``level_range`` dB. The mixture is their sum.
    """

    def __init__(
        self,
        utterances: Mapping[str, Sequence[NDArray[Any]]],
        *,
        sample_rate: int = 8000,
        seconds: float = 2.0,
        n_src: int = 2,
        size: int = 1_000_000,
        seed: int = 0,
        level_range: float = 5.0,
    ) -> None:
        """Prepare all utterances and keep them in memory.

        Args:
            utterances: Speaker name to signals ``(T,)``, of any length and level; silent ones are
                left out.
            sample_rate: Of the utterances, in Hz.
            seconds: Length of every item.
            n_src: Speakers in a mixture.
            size: Number of items; they cost nothing until they are read.
            seed: Another seed is another set of mixtures.
            level_range: Largest level of a source relative to the first one, in dB.

        Raises:
            InputError: If a number is out of range.
            DataError: If a signal is unusable, or fewer than ``n_src`` speakers have speech.
        """
        self.sample_rate, self.seconds, self.n_src, self.seed = sample_rate, seconds, n_src, seed
        self.samples = round(seconds * sample_rate)
        self.level_range = level_range
        self.size = size
        if min(self.samples, n_src, size) < 1 or seed < 0 or level_range < 0:
            raise InputError(
                "MixtureDataset needs seconds * sample_rate, n_src and size of at least 1, and "
                f"seed and level_range of at least 0, got {seconds=}, {sample_rate=}, {n_src=}, "
                f"{size=}, {seed=}, {level_range=}."
            )
        self.utterances = _prepare_all(utterances, sample_rate)
        if len(self.utterances) < n_src:
            raise DataError(
                f"A mixture of {n_src} different speakers needs as many speakers with speech, got "
                f"{len(self.utterances)} ({', '.join(self.utterances) or 'none'}). Give more "
                "speakers, or a smaller n_src."
            )
        self._names = sorted(self.utterances)

    def __len__(self) -> int:
        """Number of items."""
        return self.size

    def identity(self) -> str:
        """Changes with the recordings, and with how they are mixed."""
        told = (self.sample_rate, self.samples, self.n_src, self.size, self.level_range)
        digest = hashlib.sha256(repr(told).encode())
        for name in self._names:
            digest.update(name.encode())
            for utterance in self.utterances[name]:
                digest.update(np.ascontiguousarray(utterance).data)
        return f"{len(self._names)} speakers {digest.hexdigest()[:16]}, seed {self.seed}"

    def speakers(self, index: int) -> tuple[str, ...]:
        """Names of the speakers of an item, in the order of its sources."""
        return self._draw_speakers(self._generator(index))

    def __getitem__(self, index: int) -> Item:
        """One mixture.

        Args:
            index: From 0; negative counts from the end.

        Returns:
            The mixture ``(T,)`` and its sources ``(S, T)``, float32.

        Raises:
            IndexError: If the index is not below the size.
            DataError: If a speaker yields only silent segments.
        """
        generator = self._generator(index)
        names = self._draw_speakers(generator)
        sources = np.stack([self._segment(name, generator) for name in names])
        levels = generator.uniform(-self.level_range, self.level_range, size=self.n_src)
        levels[0] = 0.0
        sources *= 10 ** ((levels - levels.mean())[:, None] / 20)
        tensor = torch.from_numpy(sources.astype(np.float32))
        return tensor.sum(0), tensor

    def _generator(self, index: int) -> np.random.Generator:
        """The item's own random numbers."""
        position = index + self.size if index < 0 else index
        if not 0 <= position < self.size:
            raise IndexError(f"Index {index} is out of range for {self.size} mixtures.")
        return np.random.default_rng([self.seed, position])

    def _draw_speakers(self, generator: np.random.Generator) -> tuple[str, ...]:
        """Different speakers, uniformly."""
        drawn = generator.choice(len(self._names), size=self.n_src, replace=False)
        return tuple(self._names[i] for i in drawn)

    def _segment(self, name: str, generator: np.random.Generator) -> NDArray[np.float64]:
        """Speech of one speaker, ``(T,)`` with the RMS of a prepared utterance."""
        pool = self.utterances[name]
        for _ in range(MAX_DRAWS):
            parts = [pool[generator.integers(len(pool))]]
            start = int(generator.integers(len(parts[0])))
            while sum(map(len, parts)) - start < self.samples:
                parts.append(pool[generator.integers(len(pool))])
            segment = np.concatenate(parts)[start : start + self.samples].astype(np.float64)
            segment -= segment.mean()
            rms = np.sqrt(np.mean(np.square(segment)))
            if rms > LEVEL / 10 and active_frames(segment, self.sample_rate).mean() > MIN_ACTIVE:
                return np.asarray(segment * (LEVEL / rms))
        raise DataError(
            f"{MAX_DRAWS} segments of {self.seconds} s of speaker {name!r} were all mostly silent. "
            "Leave out the recordings with long pauses."
        )


def _prepare_all(
    utterances: Mapping[str, Sequence[NDArray[Any]]], sample_rate: int
) -> dict[str, list[Signal]]:
    """Prepared utterances of the speakers that have any; errors name the recording."""
    prepared: dict[str, list[Signal]] = {}
    for name, signals in utterances.items():
        for index, signal in enumerate(signals):
            try:
                utterance = prepare_utterance(signal, sample_rate)
            except DataError as error:
                raise DataError(f"Utterance {index} of speaker {name!r}: {error}") from error
            if utterance is not None:
                prepared.setdefault(name, []).append(utterance)
    return prepared
