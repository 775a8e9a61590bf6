"""What the field's data sets call their splits, mixtures and sources."""

from __future__ import annotations

from collections.abc import Callable

from sepprune_tp.errors import InputError

__all__ = ["MIXES", "SPLIT_NAMES", "mixes", "source_names", "split_names"]

SPLIT_NAMES = {
    "train": ("train", "train-360", "train-100", "tr"),
    "val": ("val", "dev", "valid", "cv"),
    "test": ("test", "tt"),
}
"""Ours to theirs: LibriMix train-360/dev/test, WHAM!, wsj0-mix and LRS2-2Mix tr/cv/tt."""

MIXES = ("mix", "mix_clean", "mix_both", "mix_single")
"""Of one speaker after another, the same without noise, with noise, and one speaker with noise."""


def split_names(split: str) -> tuple[str, ...]:
    """What a split may be called, likeliest first.

    Raises:
        InputError: If there is no such split.
    """
    if split not in SPLIT_NAMES:
        raise InputError(f"Unknown split {split!r}; the splits are {', '.join(SPLIT_NAMES)}.")
    return SPLIT_NAMES[split]


def mixes(mix: str | None) -> tuple[str, ...]:
    """Names of the mixtures to look for: the one wanted, or all, likeliest first."""
    return MIXES if mix is None else (mix,)


def source_names(mix: str, present: Callable[[str], bool]) -> list[str]:
    """``s1``, ``s2``... as far as they are present; ``mix_single`` has the first alone."""
    names: list[str] = []
    while present(f"s{len(names) + 1}") and not (names and mix == "mix_single"):
        names.append(f"s{len(names) + 1}")
    return names
