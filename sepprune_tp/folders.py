"""Folders of mixtures in the layouts of WHAM!/LibriMix (``mix*/ s1/ s2/``) and of FSDD.

Letters: S sources, T time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sepprune_tp.errors import DataError, InputError, require
from sepprune_tp.mixtures import MixtureDataset, load_recordings

__all__ = ["FolderMixtures", "open_mixtures"]

Item = tuple[Tensor, Tensor]
# What the data sets call their splits: WHAM! tr/cv/tt, LibriMix train-360/dev/test.
SPLIT_FOLDERS = {
    "train": ("train", "train-360", "train-100", "tr"),
    "val": ("val", "dev", "valid", "cv"),
    "test": ("test", "tt"),
}
MIX_FOLDERS = ("mix", "mix_clean", "mix_single", "mix_both")
ENDINGS = (".wav", ".flac")
SILENCE = 1e-8  # mean square of a source below which a segment is drawn again: -80 dBFS
MAX_DRAWS = 50
ENDLESS = 1_000_000
# FSDD: which recordings make each split, how many mixtures, and a seed of its own.
RECORDED = {"train": ("fit", ENDLESS, 0), "val": ("val", 64, 1), "test": ("test", 200, 2)}


class FolderMixtures(Dataset[Item]):
    """Mixtures stored with their sources: ``mix/x.wav``, ``s1/x.wav``, ``s2/x.wav``..."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        sample_rate: int,
        mix: str | None = None,
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        """List the files; they are read when they are asked for.

        Args:
            folder: Holds a folder of mixtures and folders ``s1``, ``s2``... with the same files.
            sample_rate: That every file must have, in Hz.
            mix: Name of the folder of mixtures; None takes the first of ``mix``, ``mix_clean``,
                ``mix_single`` and ``mix_both`` that exists.
            seconds: Length of random segments, as many as wanted; None gives whole files once.
            seed: Of the segments.

        Raises:
            DataError: If folders or files are missing.
            MissingExtraError: If soundfile is not installed.
        """
        self.soundfile = require("soundfile", "train", "Reading mixtures")
        self.folder, self.sample_rate, self.seed = Path(folder), sample_rate, seed
        self.samples = None if seconds is None else round(seconds * sample_rate)
        self.parts = [_mix_folder(self.folder, mix), *_source_folders(self.folder)]
        self.names = _common_names(self.parts)

    def __len__(self) -> int:
        """Number of files, or a million segments."""
        return len(self.names) if self.samples is None else ENDLESS

    def __getitem__(self, index: int) -> Item:
        """One mixture (T,) and its sources (S, T), float32, a function of seed and index alone."""
        if not 0 <= index < len(self):
            raise IndexError(f"Index {index} is out of range for {len(self)} mixtures.")
        if self.samples is None:
            return self._read(self.names[index], 0, -1)
        generator = np.random.default_rng([self.seed, index])
        for _ in range(MAX_DRAWS):
            name = self.names[int(generator.integers(len(self.names)))]
            frames = self.soundfile.info(self.parts[0] / name).frames
            start = int(generator.integers(max(1, frames - self.samples + 1)))
            mixture, sources = self._read(name, start, min(self.samples, frames))
            if bool((sources.double().square().mean(-1) > SILENCE).all()):
                missing = self.samples - mixture.shape[-1]
                pad = (0, missing)
                return torch.nn.functional.pad(mixture, pad), torch.nn.functional.pad(sources, pad)
        raise DataError(
            f"{MAX_DRAWS} segments of {self.folder} all had a silent source. Use longer segments, "
            "or leave out mixtures whose speakers hardly overlap."
        )

    def _read(self, name: str, start: int, frames: int) -> Item:
        """A stretch of all parts of one mixture."""
        signals = [self._read_one(part / name, start, frames) for part in self.parts]
        lengths = {len(signal) for signal in signals}
        if len(lengths) > 1:
            raise DataError(f"{name} has different lengths in the folders of {self.folder}.")
        return signals[0], torch.stack(signals[1:])

    def _read_one(self, path: Path, start: int, frames: int) -> Tensor:
        try:
            signal, rate = self.soundfile.read(path, frames, start, dtype="float32")
        except (RuntimeError, OSError) as error:
            raise DataError(f"Cannot read {path}: {error}. Fetch or make it again.") from error
        if rate != self.sample_rate or signal.ndim != 1:
            raise DataError(
                f"{path} has {1 if signal.ndim == 1 else signal.shape[1]} channel(s) at {rate} Hz; "
                f"the model needs 1 at {self.sample_rate} Hz. Resample the folder."
            )
        return torch.from_numpy(np.asarray(signal, dtype=np.float32))


def open_mixtures(
    folder: str | os.PathLike[str],
    split: str,
    *,
    sample_rate: int,
    mix: str | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Any:
    """Open a split of a folder of mixtures, or of recordings to mix.

    Args:
        folder: ``recordings/`` as in FSDD, or ``mix*/ s1/ s2/``, with or without split folders
            (``train``, ``dev``, ``test``, ``tr``, ``cv``, ``tt``...) above them. Without, every
            tenth file is for validation, the rest for training, and all for testing.
        split: ``"train"``, ``"val"`` or ``"test"``.
        sample_rate: Of the model, in Hz.
        mix: Name of the folder of mixtures, if there are several.
        seconds: Length of random segments; None: whole files (2 s mixtures for FSDD).
        seed: Of segments and mixtures.

    Returns:
        A sized data set of (mixture (T,), sources (S, T)).

    Raises:
        InputError: If there is no such split.
        DataError: If the folder has none of the layouts.
    """
    root = Path(folder)
    if split not in SPLIT_FOLDERS:
        raise InputError(f"Unknown split {split!r}; the splits are {', '.join(SPLIT_FOLDERS)}.")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give --data a folder of mixtures.")
    if (root / "recordings").is_dir():
        recorded, size, offset = RECORDED[split]
        return MixtureDataset(
            load_recordings(root, recorded, sample_rate=sample_rate),
            sample_rate=sample_rate,
            seconds=seconds or 2.0,
            size=size,
            seed=3 * seed + offset,
        )
    options: dict[str, Any] = {"sample_rate": sample_rate, "mix": mix, "seed": seed}
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return FolderMixtures(root / name, seconds=seconds, **options)
    return _held_out(FolderMixtures(root, seconds=seconds, **options), split)


def _held_out(data: FolderMixtures, split: str) -> Any:
    """A split of a folder that has none: every tenth file validates, all of them test."""
    if split == "train":
        data.names = [name for i, name in enumerate(data.names) if i % 10 or len(data.names) < 10]
    elif split == "val" and len(data.names) >= 10:
        data.names = data.names[::10]
    return data if data.samples is None or split == "train" else Subset(data, range(64))


def _mix_folder(folder: Path, mix: str | None) -> Path:
    names = MIX_FOLDERS if mix is None else (mix,)
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(
        f"{folder} has no folder of mixtures ({', '.join(names)}) and no recordings/. Expected "
        "mix/, s1/, s2/ with the same file names in each (WHAM!, LibriMix), or recordings/ as in "
        "FSDD."
    )


def _source_folders(folder: Path) -> list[Path]:
    found: list[Path] = []
    while (folder / f"s{len(found) + 1}").is_dir():
        found.append(folder / f"s{len(found) + 1}")
    if not found:
        raise DataError(f"{folder} has no s1/, s2/... with the sources of its mixtures.")
    return found


def _common_names(parts: list[Path]) -> list[str]:
    """File names of the mixtures, every one of which must exist in every folder."""
    names = sorted(path.name for path in parts[0].iterdir() if path.suffix in ENDINGS)
    if not names:
        raise DataError(f"{parts[0]} holds no {' or '.join(ENDINGS)} files.")
    for part in parts[1:]:
        present = {path.name for path in part.iterdir()}
        if lacking := [name for name in names if name not in present]:
            raise DataError(
                f"{part} lacks {lacking[0]}, which {parts[0]} has ({len(lacking)} such in all). "
                "Every mixture needs all of its sources under the same name."
            )
    return names
