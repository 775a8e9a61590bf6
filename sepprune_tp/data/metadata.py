"""LibriMix's metadata: ``mixture_{split}_{mix}.csv``, as LibriMix writes and Asteroid reads it."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

from sepprune_tp.errors import DataError

from .listed import Column, find_files, shown
from .naming import mixes, split_names
from .stored import MixtureFiles

__all__ = ["csv_files"]

MIXTURE, LENGTH = "mixture_path", "length"
REMEDY = "Make the metadata again with LibriMix's scripts."


def csv_files(
    folder: Path, split: str, mix: str | None = None, *, audio_root: Path | None = None
) -> list[MixtureFiles] | None:
    """Read the metadata of a split.

    Columns are ``mixture_path``, ``source_1_path``, ``source_2_path``... and ``length`` in samples;
    others, such as ``mixture_ID`` and ``noise_path``, are not read.

    Args:
        folder: Holds ``mixture_train-360_mix_clean.csv`` and the like; other files are ignored.
        split: ``"train"``, ``"val"`` or ``"test"``.
        mix: ``"mix_clean"``, ``"mix_both"`` or ``"mix_single"``; None takes the first that is
            there.
        audio_root: Where the audio is, if not where the metadata say.

    Returns:
        The files of every mixture in the file's order, or None if there is no such file.

    Raises:
        InputError: If there is no such split.
        DataError: If the file is malformed, or files that it names are missing.
    """
    candidates = (
        folder / f"mixture_{name}_{kind}.csv" for name in split_names(split) for kind in mixes(mix)
    )
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return None
    header, rows = _read(path)
    names = _path_columns(path, header)
    for number, row in enumerate(rows):
        _check_length(path, number, row[header.index(LENGTH)])
    columns = []
    for name in names:
        paths = [row[header.index(name)] for row in rows]
        if not all(paths):
            raise DataError(f"Entry {paths.index('')} of {path} has no {name}. {REMEDY}")
        columns.append(Column(f"{path}, {name}", folder, paths))
    return find_files(columns, audio_root)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]  # no blank lines
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({type(error).__name__}: {error}). {REMEDY}"
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path} lists no mixtures. {REMEDY}")
    header, *entries = rows
    for number, row in enumerate(entries):
        if len(row) != len(header):
            raise DataError(
                f"Entry {number} of {path} has {len(row)} cells, its header {len(header)}. {REMEDY}"
            )
    return header, entries


def _path_columns(path: Path, header: list[str]) -> list[str]:
    """Columns of paths: of the mixture, and of its sources as far as they are numbered on."""
    sources = [f"source_{number}_path" for number in range(1, len(header) + 1)]
    known = list(itertools.takewhile(header.__contains__, sources))
    if MIXTURE not in header or not known or LENGTH not in header:
        raise DataError(
            f"{path} has the columns {shown(header)}, expected {MIXTURE}, {sources[0]}, "
            f"source_2_path... and {LENGTH}. {REMEDY}"
        )
    return [MIXTURE, *known]


def _check_length(path: Path, number: int, text: str) -> None:
    """A number of samples above 0; whole numbers may be written as floats."""
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not (math.isfinite(length) and length > 0 and length == int(length)):
        raise DataError(
            f"Entry {number} of {path} has the {LENGTH} {shown(text)}, expected a number "
            f"of samples above 0. {REMEDY}"
        )
