"""Two-talker mixtures from recordings of single speakers.

Letters: B batch, S sources, T time. Sources are ordered at random, levels are in dB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sepprune_tp.errors import DataError, InputError, require

__all__ = [
    "SPLITS",
    "MapStyle",
    "MixtureDataset",
    "batches",
    "load_recordings",
    "prepare_utterance",
]

Signal = NDArray[np.float32]
Item = tuple[Tensor, Tensor]

SPLITS: Mapping[str, tuple[int, float]] = {
    "test": (0, 5),
    "train": (5, float("inf")),
    "val": (5, 8),
    "fit": (8, float("inf")),
    "all": (0, float("inf")),
}
"""Recording indices ``[first, end)`` of each split; ``train`` is ``val`` and ``fit`` together."""

LEVEL = 0.05  # RMS of a prepared utterance: -26 dBFS leaves headroom for a sum of speakers
FRAME = 0.02  # s, for energy decisions
SILENCE = -35.0  # dB below the loudest frame: a frame that counts as silent
MIN_ACTIVE = 0.5  # share of a segment's frames that must not be silent
MAX_DRAWS = 50  # attempts at a segment before its speaker is reported


class MapStyle(Protocol):
    """A map-style data set: a sized map from index to (mixture, sources)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


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
    soundfile = require("soundfile", "train", "Reading recordings")
    directory = Path(folder) / "recordings"
    first, end = SPLITS[split]
    recordings: dict[str, list[Signal]] = {}
    for path in sorted((*directory.glob("*.flac"), *directory.glob("*.wav"))):
        _, _, rest = path.stem.partition("_")
        speaker, _, index = rest.rpartition("_")
        if speaker and index.isdigit() and first <= int(index) < end:
            recordings.setdefault(speaker, []).append(_read(soundfile, path, sample_rate))
    if not recordings:
        raise DataError(
            f"No recordings of the split {split!r} in {directory}"
            f"{'' if directory.is_dir() else ' (the folder does not exist)'}. Expected files "
            "{digit}_{speaker}_{index}.flac or .wav, as in the Free Spoken Digit Dataset."
        )
    return recordings


def _read(soundfile: Any, path: Path, sample_rate: int) -> Signal:
    """Decode one mono file of the expected rate: ``(T,)`` float32."""
    try:
        signal, rate = soundfile.read(path, dtype="float32", always_2d=False)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"Cannot decode {path}: {error}. The file may be truncated: fetch it again."
        ) from error
    if rate != sample_rate or signal.ndim != 1:
        channels = 1 if signal.ndim == 1 else signal.shape[1]
        raise DataError(
            f"{path} has {channels} channel(s) at {rate} Hz, expected 1 at {sample_rate} Hz. "
            f"Resample it, or pass sample_rate={rate} and a model of that rate."
        )
    return np.asarray(signal, dtype=np.float32)


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
    active = np.flatnonzero(_active_frames(signal, sample_rate))
    if not active.size:
        return None
    frame = _frame_length(sample_rate)
    signal = signal[active[0] * frame : (active[-1] + 1) * frame]
    scale = LEVEL / np.sqrt(np.mean(np.square(signal)))
    return np.asarray(signal * scale, dtype=np.float32)


def _frame_length(sample_rate: int) -> int:
    """Samples in one frame of 20 ms."""
    return max(1, round(FRAME * sample_rate))


def _active_frames(signal: NDArray[Any], sample_rate: int) -> NDArray[np.bool_]:
    """Which frames of 20 ms are within 35 dB of the loudest; none if all is below -100 dBFS."""
    frame = _frame_length(sample_rate)
    padded = np.pad(signal, (0, -len(signal) % frame)).reshape(-1, frame)
    power = np.square(padded, dtype=np.float64).mean(-1)
    return np.asarray((power > power.max() * 10 ** (SILENCE / 10)) & (power > 1e-10))


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
            if rms > LEVEL / 10 and _active_frames(segment, self.sample_rate).mean() > MIN_ACTIVE:
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


def batches(
    dataset: MapStyle,
    batch_size: int,
    *,
    start: int = 0,
    steps: int | None = None,
    shuffle_seed: int | None = None,
) -> Iterator[Item]:
    """Batches as a function of the step, so that a killed run resumes at the same batch.

    Step ``k`` holds the items ``k * batch_size`` to ``(k + 1) * batch_size - 1``, counted on
    through the data set as often as needed; every pass has its own order if shuffled.

    Args:
        dataset: Sized map from index to (mixture ``(T,)``, sources ``(S, T)``), equally long.
        batch_size: B.
        start: First step.
        steps: How many batches to give; None goes on for ever.
        shuffle_seed: Seed of the order of every pass; None keeps the data set's own order.

    Yields:
        The mixtures ``(B, T)`` and sources ``(B, S, T)``.

    Raises:
        InputError: If the batch size is not positive.
        DataError: If the data set is empty.
    """
    if batch_size < 1 or start < 0:
        raise InputError(f"batches needs batch_size >= 1 and start >= 0, {batch_size=}, {start=}.")
    if not len(dataset):
        raise DataError(
            f"The data set ({type(dataset).__name__}) is empty: there is nothing to make batches "
            "of. Check the folder or list that it was built from."
        )
    step = start
    orders = _Orders(dataset, shuffle_seed)
    while steps is None or step < start + steps:
        items = [dataset[orders.item(step * batch_size + i)] for i in range(batch_size)]
        yield torch.stack([item[0] for item in items]), torch.stack([item[1] for item in items])
        step += 1


class _Orders:
    """Which item stands at a position of the endless sequence of passes."""

    def __init__(self, dataset: Sized, seed: int | None) -> None:
        self._size, self._seed = len(dataset), seed
        self._pass = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def item(self, position: int) -> int:
        """Index into the data set at a position from 0."""
        number, offset = divmod(position, self._size)
        if self._seed is None:
            return offset
        if number != self._pass:
            self._pass = number
            self._order = np.random.default_rng([self._seed, number]).permutation(self._size)
        return int(self._order[offset])
