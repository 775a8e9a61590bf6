"""The corpora that experiments name: training, validation and test mixtures, and their hash."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sepprune_tp.data import (
    MapStyle,
    MixtureDataset,
    load_recordings,
    open_mixtures,
)
from sepprune_tp.data.synthetic import synthetic_mixtures

from .config import ConfigError
from .speech import SPEECH, SPEEDS, DifferentPeople, people, read_speech

__all__ = [
    "FSDD",
    "Corpus",
    "RecordedCorpus",
    "StoredCorpus",
    "SyntheticCorpus",
    "TwoSpeakersCorpus",
    "open_corpus",
]

ROOT = Path(__file__).resolve().parents[2]
FSDD = ROOT.parent / "shared" / "fsdd"
VALIDATION_SEED, TEST_SEED = 10, 20
ENDLESS = 1_000_000


class Corpus(Protocol):
    """Mixtures to train, to validate and to test on.

    Attributes:
        name: In records and file names.
        sample_rate: In Hz.
        sha256: Of everything that the mixtures come from (of stored ones: of names and sizes).
        epoch: Seconds of speech to train on, one speaker at a time; 0 where it is not known.
    """

    name: str
    sample_rate: int
    sha256: str
    epoch: float

    def train(self, seed: int, seconds: float = 2.0) -> MapStyle:
        """Endless training mixtures."""

    def validation(self, size: int = 64, seconds: float = 2.0) -> MapStyle:
        """Mixtures that choose among weights, never trained on."""

    def test(self, size: int | None, seconds: float | None = 3.0) -> MapStyle:
        """Mixtures that nothing is chosen on; of stored ones None is all of them, whole."""


@dataclass(frozen=True)
class RecordedCorpus:
    """Mixtures of single recordings: the Free Spoken Digit Dataset, or one in its layout.

    Speaker-dependent: all splits hold the same speakers.
    """

    name: str
    folder: Path
    sample_rate: int
    sha256: str
    epoch: float

    def train(self, seed: int, seconds: float = 2.0) -> MixtureDataset:
        """Endless training mixtures."""
        return self._mixed("fit", seconds=seconds, seed=seed)

    def validation(self, size: int = 64, seconds: float = 2.0) -> MixtureDataset:
        """Mixtures of recordings that neither training nor test hears."""
        return self._mixed("val", seconds=seconds, seed=VALIDATION_SEED, size=size)

    def test(self, size: int | None, seconds: float | None = 3.0) -> MixtureDataset:
        """The fixed test mixtures, 300 of 3 s unless it is said."""
        return self._mixed("test", seconds=seconds or 3.0, seed=TEST_SEED, size=size or 300)

    def _mixed(self, split: str, **options: Any) -> MixtureDataset:
        recordings = load_recordings(self.folder, split, sample_rate=self.sample_rate)
        return MixtureDataset(recordings, sample_rate=self.sample_rate, **options)


@dataclass(frozen=True)
class SyntheticCorpus:
    """Mixtures of synthesised speech, as many as wanted; no two splits share a speaker."""

    name: str
    folder: Path
    sentences: int
    sample_rate: int
    sha256: str
    epoch: float

    def train(self, seed: int, seconds: float = 2.0) -> MixtureDataset:
        """Endless training mixtures."""
        return self._mixed("train", seconds=seconds, seed=seed, size=ENDLESS)

    def validation(self, size: int = 64, seconds: float = 2.0) -> MixtureDataset:
        """Mixtures of speakers that neither training nor test hears."""
        return self._mixed("val", seconds=seconds, seed=VALIDATION_SEED, size=size)

    def test(self, size: int | None, seconds: float | None = 3.0) -> MixtureDataset:
        """The fixed test mixtures, 300 of 3 s unless it is said."""
        return self._mixed("test", seconds=seconds or 3.0, seed=TEST_SEED, size=size or 300)

    def _mixed(self, split: str, **options: Any) -> MixtureDataset:
        return synthetic_mixtures(
            split, cache_dir=self.folder, n_sentences=self.sentences, **options
        )


@dataclass(frozen=True)
class TwoSpeakersCorpus:
    """Mixtures of adults who read sentences; no two splits share a speaker.

    Training also hears everybody faster and slower.
    """

    name: str
    folder: Path
    sample_rate: int
    sha256: str
    epoch: float

    def train(self, seed: int, seconds: float = 2.0) -> MixtureDataset:
        """Endless training mixtures."""
        return self._mixed("train", SPEEDS, seconds=seconds, seed=seed, size=ENDLESS)

    def validation(self, size: int = 64, seconds: float = 2.0) -> MixtureDataset:
        """Mixtures of speakers that neither training nor test hears."""
        return self._mixed("val", seconds=seconds, seed=VALIDATION_SEED, size=size)

    def test(self, size: int | None, seconds: float | None = 3.0) -> MixtureDataset:
        """The fixed test mixtures, 200 of 3 s by default."""
        return self._mixed("test", seconds=seconds or 3.0, seed=TEST_SEED, size=size or 200)

    def _mixed(
        self, split: str, speeds: tuple[str, ...] = ("1",), **options: Any
    ) -> MixtureDataset:
        speech = read_speech(self.folder, split, self.sample_rate, speeds)
        return DifferentPeople(speech, sample_rate=self.sample_rate, **options)


@dataclass(frozen=True)
class StoredCorpus:
    """Mixtures on disk: LibriMix, WHAM!, LRS2-2Mix, EchoSet or a folder of ``mix/ s1/ s2/``."""

    name: str
    folder: Path
    sample_rate: int
    sha256: str
    epoch: float
    mix: str | None = None
    audio_root: Path | None = None

    def train(self, seed: int, seconds: float = 2.0) -> MapStyle:
        """Endless random segments."""
        return self._open("train", seconds=seconds, seed=seed)

    def validation(self, size: int = 64, seconds: float = 2.0) -> MapStyle:
        """Random segments, the same every time."""
        return self._open("val", seconds=seconds, seed=VALIDATION_SEED)

    def test(self, size: int | None, seconds: float | None = None) -> MapStyle:
        """The first so many test mixtures, whole, or that many random segments."""
        return self._open("test", seconds=seconds, limit=size)

    def _open(self, split: str, **options: Any) -> MapStyle:
        return open_mixtures(
            self.folder,
            split,
            sample_rate=self.sample_rate,
            mix=self.mix,
            audio_root=self.audio_root,
            **options,
        )


def open_corpus(arguments: Mapping[str, Any]) -> Corpus:
    """The corpus of an experiment.

    Args:
        arguments: ``name``: ``fsdd``, ``synthetic``, ``two-speakers``, or any other of a stored
            corpus; ``path`` and what its kind has.

    Raises:
        ConfigError: If it is not said where it is, or an argument is unknown.
        DataError: If its files are missing or wrong.
    """
    values = dict(arguments)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"data: expected a name, got {name!r}")
    try:
        if name == "fsdd":
            return _recorded(**values)
        if name == "two-speakers":
            return _two_speakers(**values)
        return _synthetic(**values) if name == "synthetic" else _stored(name, **values)
    except TypeError as error:
        raise ConfigError(f"data {name}: {error}") from error


def _recorded(path: str | None = None) -> RecordedCorpus:
    folder = Path(path) if path else FSDD
    recordings = load_recordings(folder, "fit")
    seconds = sum(len(signal) for one in recordings.values() for signal in one) / 8000
    digest = _hash(folder / "recordings", contents=True)
    return RecordedCorpus("fsdd", folder, 8000, digest, round(seconds, 1))


def _synthetic(sentences: int = 15, path: str | None = None) -> SyntheticCorpus:
    folder = Path(path) if path else ROOT / "runs" / "speech"
    digest = hashlib.sha256(f"sentences {sentences}".encode()).hexdigest()
    return SyntheticCorpus("synthetic", folder, sentences, 8000, digest, 90.0 * sentences)


def _two_speakers(path: str | None = None) -> TwoSpeakersCorpus:
    folder = Path(path) if path else SPEECH
    people(folder, "test")  # raises here rather than after hours of training
    speech = read_speech(folder, "train", 8000, SPEEDS)
    usual = (signals for voice, signals in speech.items() if voice.endswith(" at 1"))
    seconds = sum(len(signal) for signals in usual for signal in signals) / 8000
    digest = _hash(folder, contents=True)
    return TwoSpeakersCorpus("two-speakers", folder, 8000, digest, round(seconds, 1))


def _stored(
    name: str,
    sample_rate: int,
    path: str | None = None,
    mix: str | None = None,
    audio_root: str | None = None,
) -> StoredCorpus:
    found = path or os.environ.get(variable(name))
    if not found:
        raise ConfigError(
            f"data {name}: say where it is, with `path` in the experiment's data or the "
            f"environment variable {variable(name)}"
        )
    folder, root = Path(found), Path(audio_root) if audio_root else None
    return StoredCorpus(name, folder, sample_rate, _hash(folder), 0.0, mix, root)


def variable(name: str) -> str:
    """The environment variable that says where a stored corpus is."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_DATA"


def _hash(folder: Path, contents: bool = False) -> str:
    """SHA-256 over names and sizes, or contents, of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.name if contents else path.relative_to(folder).as_posix()
        digest.update(name.encode())
        digest.update(path.read_bytes() if contents else str(path.stat().st_size).encode())
    return digest.hexdigest()
