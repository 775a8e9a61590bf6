"""Read speech of many people, a folder per person, in splits that share nobody.

Letters: T time.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path

import numpy as np

from sepprune_tp.data import MixtureDataset
from sepprune_tp.data.audio import MonoFile, Signal
from sepprune_tp.errors import DataError, require

__all__ = ["SPEECH", "SPEEDS", "DifferentPeople", "people", "read_speech"]

SPEECH = Path(__file__).resolve().parents[3] / "shared" / "speech" / "speechocean762"
SPEEDS = ("1", "0.9", "1.1")
"""Speeds at which training hears everybody: other pitches and formants, so other voices."""
_RATE = 16000  # of the files, in Hz
_VALIDATION = 8  # every eighth person of the train folder is heard in validation only


def people(folder: Path, split: str) -> list[Path]:
    """Return the folders of the people in a split.

    Args:
        folder: Holds ``train/`` and ``test/``, each with a folder per person.
        split: ``"train"``, ``"val"`` (people in ``train/`` who are not in the former), ``"test"``.

    Raises:
        DataError: If there is nobody.
    """
    parent = folder / ("test" if split == "test" else "train")
    found = sorted(path for path in parent.glob("*") if path.is_dir())
    if split != "test":
        held_out = found[::_VALIDATION]
        found = held_out if split == "val" else [one for one in found if one not in held_out]
    if not found:
        missing = "" if parent.is_dir() else " (the folder does not exist)"
        raise DataError(
            f"No speech for the split {split!r} in {parent}{missing}. It needs a folder per person "
            "with FLAC files at 16 kHz; give its place with `path` in the experiment's data."
        )
    return found


@functools.lru_cache(maxsize=4)
def read_speech(
    folder: Path, split: str, sample_rate: int = 8000, speeds: tuple[str, ...] = ("1",)
) -> dict[str, list[Signal]]:
    """Read the utterances of a split and resample them.

    Args:
        folder: As :func:`people` takes it.
        split: ``"train"``, ``"val"`` or ``"test"``.
        sample_rate: Wanted, in Hz.
        speeds: Decimal numbers; played at a speed, an utterance is that much shorter and higher.

    Returns:
        Name and speed (``"0036-f at 0.9"``) to utterances, each ``(T,)``. Do not change them.

    Raises:
        DataError: If there are none, or a file cannot be read.
        MissingExtraError: If SciPy or soundfile is not installed.
    """
    resample = require("scipy.signal", "train", "Resampling recordings").resample_poly
    speech: dict[str, list[Signal]] = {}
    for person in people(folder, split):
        for path in sorted(person.glob("*.flac")):
            with MonoFile(path, _RATE) as file:
                signal = file.read(0, file.frames)
            for speed in speeds:
                ratio = Fraction(sample_rate, _RATE) / Fraction(speed)
                changed = resample(signal, ratio.numerator, ratio.denominator)
                voice = speech.setdefault(f"{person.name} at {speed}", [])
                voice.append(np.asarray(changed, dtype=np.float32))
    return speech


class DifferentPeople(MixtureDataset):
    """Mixtures of what :func:`read_speech` returns, never of one person at two speeds."""

    def _draw_speakers(self, generator: np.random.Generator) -> tuple[str, ...]:
        """Voices of different people, uniformly."""
        while True:
            voices = super()._draw_speakers(generator)
            if len({voice.partition(" at ")[0] for voice in voices}) == len(voices):
                return voices
