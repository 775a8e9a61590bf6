"""Mixtures of synthesised speech: as many as wanted, of speakers that no two splits share."""

from __future__ import annotations

import os

from sepprune_tp.demo.synthesis import SAMPLE_RATE, load_or_synthesise
from sepprune_tp.demo.voices import TEST_VOICES, TRAIN_VOICES, Voice

from .mixing import MixtureDataset
from .naming import split_names

__all__ = ["split_voices", "synthetic_mixtures"]

# Four female and four male voices whose fundamental frequencies lie 10 % or more apart within each
# group: two espeak-ng voices of one pitch are closer than two people are.
VALIDATION = frozenset({"Nguyen", "steph", "f4", "Alicia", "pedro", "m7", "Michael", "Jacky"})
SEEDS = {"train": 10, "val": 11, "test": 12}  # of the speech


def split_voices(split: str) -> tuple[Voice, ...]:
    """The speakers of a split.

    Args:
        split: ``"train"`` (30 voices), ``"val"`` (8) or ``"test"`` (8).

    Returns:
        Voices of which no other split has any. The model that ships with the demo was trained on
        those of ``"train"`` and of ``"val"``.

    Raises:
        InputError: If there is no such split.
    """
    split_names(split)
    if split == "test":
        return TEST_VOICES
    return tuple(v for v in TRAIN_VOICES if (v.variant in VALIDATION) == (split == "val"))


def synthetic_mixtures(
    split: str,
    *,
    size: int,
    cache_dir: str | os.PathLike[str],
    seconds: float = 2.0,
    seed: int = 0,
    n_src: int = 2,
    n_sentences: int = 15,
) -> MixtureDataset:
    """Synthesise the speakers of a split and mix them.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``; no two of them share a speaker.
        size: Number of mixtures; they cost nothing until they are read.
        cache_dir: Where the speech is kept for the next time (about 50 kB a sentence).
        seconds: Length of a mixture.
        seed: Of the mixtures; the speech is the same for all seeds.
        n_src: Speakers in a mixture.
        n_sentences: Sentences of every speaker, of about 3 s each.

    Returns:
        Mixtures at 8 kHz, each a function of the seed and its index alone.

    Raises:
        InputError: If there is no such split, or a number is out of range.
        DataError: If espeak-ng fails or the cache is damaged.
        MissingExtraError: If ``espeakng-loader`` or SciPy is not installed.
    """
    corpus = load_or_synthesise(cache_dir, split_voices(split), n_sentences, SEEDS[split])
    return MixtureDataset(
        corpus, sample_rate=SAMPLE_RATE, seconds=seconds, n_src=n_src, size=size, seed=seed
    )
