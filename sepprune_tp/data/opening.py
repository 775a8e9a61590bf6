"""Opening a folder of mixtures, whatever its layout.

Letters: S sources, T time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sepprune_tp.errors import DataError, InputError

from .folders import folder_files
from .lists import json_files
from .metadata import csv_files
from .mixing import MixtureDataset
from .naming import mixes, split_names
from .recordings import load_recordings
from .stored import ENDLESS, MixtureFiles, StoredMixtures

__all__ = ["open_mixtures"]

FEW = 64  # random segments of a split that is not for training
# FSDD: which recordings make each split, how many mixtures, and a seed of its own.
RECORDED = {"train": ("fit", ENDLESS, 0), "val": ("val", FEW, 1), "test": ("test", 200, 2)}


def open_mixtures(
    folder: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    split: str,
    *,
    sample_rate: int,
    mix: str | None = None,
    seconds: float | None = None,
    seed: int = 0,
    n_src: int | None = None,
    audio_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> StoredMixtures | MixtureDataset:
    """Open a split of a folder of mixtures, or of recordings to mix.

    The layout is recognised from the folder, in this order:

    - ``recordings/`` as in FSDD: mixed as they are asked for.
    - ``{tr,cv,tt}/`` or the like (:data:`~sepprune_tp.data.naming.SPLIT_NAMES`), the folder itself,
      its ``metadata/``; of these the first that has, in this order, audio (``mix*/ s1/ s2/``:
      WHAM!, wsj0-mix, LibriMix, LRS2-2Mix), LibriMix's ``mixture_*_mix_*.csv``, or JSON lists
      (``mix*.json s1.json s2.json``: Asteroid's of WHAM! and wsj0-mix, Look2Hear's of LRS2-2Mix,
      EchoSet and LibriMix).

    A folder of audio or of lists without splits is split: every tenth mixture is for validation,
    the rest for training, and all for testing.

    Args:
        folder: In one of these layouts; or a folder for each split, such as ``{"train": ...}``,
            which is then read whole.
        split: ``"train"``, ``"val"`` or ``"test"``.
        sample_rate: Of the model, in Hz.
        mix: Name of the mixtures, if there are several: ``"mix_both"``; those without noise first
            when None.
        seconds: Length of random segments, as many as wanted to train on and 64 of the other
            splits; None: whole files (2 s mixtures for FSDD).
        seed: Of segments and mixtures.
        n_src: Speakers in a mixture; the folder's own number when None (2 for FSDD).
        audio_root: Where the audio is, if not where lists or metadata say. They are then what is
            read. Of each listed path the longest end that exists under this folder is taken; files
            outside of it, also by way of a link, are not (but those beside the list are).
        limit: Only the first so many mixtures.

    Returns:
        A sized data set of (mixture (T,), sources (S, T)), which knows its ``sample_rate`` and
        ``n_src``.

    Raises:
        InputError: If there is no such split, or a number is out of range.
        DataError: If the folder has none of the layouts, lists are malformed or name files that
            do not exist, or the first mixture does not fit.
        MissingExtraError: If soundfile is not installed.
    """
    split_names(split)
    by_split = isinstance(folder, Mapping)
    if isinstance(folder, Mapping):
        if split not in folder:
            given = ", ".join(folder)
            raise InputError(f"No folder was given for the split {split!r}, but for {given}.")
        folder = folder[split]
    root = Path(folder)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1, or None for all mixtures.")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give --data a folder of mixtures.")
    if (root / "recordings").is_dir():
        recorded, size, offset = RECORDED[split]
        return MixtureDataset(
            load_recordings(root, recorded, sample_rate=sample_rate),
            sample_rate=sample_rate,
            seconds=2.0 if seconds is None else seconds,
            n_src=2 if n_src is None else n_src,
            size=min(size, limit or size),
            seed=3 * seed + offset,
        )
    files = _find(root, split, mix, None if audio_root is None else Path(audio_root), by_split)
    if n_src is not None and len(files[0].sources) != n_src:
        raise DataError(
            f"The mixtures of {root} have {len(files[0].sources)} sources, n_src={n_src} are "
            f"wanted. Give a folder of mixtures of {n_src} speakers, or leave n_src out."
        )
    return StoredMixtures(
        files[:limit],
        sample_rate=sample_rate,
        origin=f"the split {split!r} of {root}",
        seconds=seconds,
        seed=seed,
        size=ENDLESS if split == "train" else FEW,
    )


def _find(
    root: Path, split: str, mix: str | None, audio_root: Path | None, whole: bool
) -> list[MixtureFiles]:
    """The files of a split, from the first place that has any."""
    places = [root / name for name in split_names(split) if (root / name).is_dir()]
    if whole:  # it is the folder of this split
        places = [root]
    for place in (*places, root, root / "metadata"):
        files = folder_files(place, mix) if audio_root is None else None
        if files is None and (named := csv_files(place, split, mix, audio_root=audio_root)):
            return named
        files = files or json_files(place, mix, audio_root=audio_root)
        if files:
            return files if place in places else _held_out(files, split)
    raise DataError(_nothing(root, split, mix, audio_root))


def _held_out(files: list[MixtureFiles], split: str) -> list[MixtureFiles]:
    """A split of mixtures that have none: every tenth validates, all of them test."""
    if split == "test" or len(files) < 10:
        return files
    return [entry for number, entry in enumerate(files) if (number % 10 == 0) == (split == "val")]


def _nothing(root: Path, split: str, mix: str | None, audio_root: Path | None) -> str:
    """What was looked for, and what is there instead."""
    names, splits = mixes(mix), split_names(split)
    there = sorted(path.name for path in root.iterdir())
    held = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    lists = ", ".join(f"{name}.json" for name in names)
    above = ", ".join(f"{name}/" for name in splits)
    audio = f"no folder of mixtures ({', '.join(names)}) and no recordings/,"
    if audio_root is not None:
        audio = "nothing that audio_root is for:"
    return (
        f"{root} has {audio} no lists ({lists}), no metadata (mixture_{splits[0]}_"
        f"{mix or 'mix_clean'}.csv...), neither by itself nor in {above}; it holds "
        f"{held or 'nothing'}. Expected mix/, s1/, s2/ with the same file names in each (WHAM!, "
        "LibriMix), mix.json, s1.json, s2.json (Asteroid, Look2Hear), LibriMix's metadata, or "
        "recordings/ as in FSDD."
    )
