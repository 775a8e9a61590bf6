"""Paths in data lists: untrusted, and often those of another machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepprune_tp.errors import DataError

from .stored import MixtureFiles

__all__ = ["Column", "find_files", "shown"]

LONGEST = 120  # characters of a listed text in a message


@dataclass(frozen=True)
class Column:
    """One path for every mixture, as a list has them.

    Attributes:
        origin: The list, for messages.
        folder: That of the list, from which relative paths count.
        paths: In the order of the mixtures.
    """

    origin: str
    folder: Path
    paths: Sequence[str]


def shown(value: object) -> str:
    """Something from a list as a message shows it: escaped, and not too long."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; deep nesting
        return f"({type(value).__name__})"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def find_files(columns: Sequence[Column], audio_root: Path | None) -> list[MixtureFiles]:
    """Find the files that lists name.

    A path is taken as listed if there is such a file, a relative one counting from the list's
    folder; otherwise its longest end that is a file under ``audio_root`` is.

    Args:
        columns: The mixtures, then the first sources, the second sources...
        audio_root: Folder that audio was moved to, if it was.

    Returns:
        The files of every mixture.

    Raises:
        DataError: If ``audio_root`` is not a folder, a relative path leaves its folder by way of
            ``..``, or files are missing; the first of them is named.
    """
    heads: frozenset[str] = frozenset()
    if audio_root is not None:
        try:
            heads = frozenset(os.listdir(audio_root))
        except OSError as error:
            raise DataError(
                f"The folder of audio cannot be listed ({error}). Give the folder that the files "
                f"in {columns[0].origin} were moved to as audio_root."
            ) from error
    found: list[list[Path]] = []
    missing: list[str] = []
    for column in columns:
        found.append([])
        for number, text in enumerate(column.paths):
            path = _find(_normal(text, number, column), column.folder, audio_root, heads)
            if path is None:
                missing.append(f"entry {number} of {column.origin}: {shown(text)}")
            else:
                found[-1].append(path)
    if missing:
        raise DataError(
            f"{len(missing)} listed file(s) do not exist, the first being {missing[0]}. "
            f"{_remedy(audio_root)}"
        )
    return [MixtureFiles(mixture, tuple(rest)) for mixture, *rest in zip(*found, strict=True)]


def _normal(text: str, number: int, column: Column) -> str:
    """A path without ``.`` and ``..``.

    Raises:
        DataError: If it is relative and leads out of the folder that it counts from.
    """
    normal = os.path.normpath(text)
    if normal.split(os.sep)[0] == os.pardir:
        raise DataError(
            f"Entry {number} of {column.origin} is {shown(text)}: a relative path that leaves its "
            "folder by way of '..' is refused. List paths below the list's own folder or below "
            "audio_root, or absolute ones."
        )
    return normal


def _find(normal: str, folder: Path, audio_root: Path | None, heads: frozenset[str]) -> Path | None:
    """A file that exists; ``heads`` is what ``audio_root`` holds, to spare most look-ups."""
    listed = os.path.join(folder, normal)  # an absolute path replaces the folder
    if os.path.isfile(listed):
        return Path(listed)
    if audio_root is not None:
        parts = normal.strip(os.sep).split(os.sep)
        for first, head in enumerate(parts):
            if head in heads:
                moved = os.path.join(audio_root, *parts[first:])
                if os.path.isfile(moved):
                    return Path(moved)
    return None


def _remedy(audio_root: Path | None) -> str:
    if audio_root is None:
        return "If the audio was moved, say where it is with audio_root (--audio-root)."
    return (
        f"No end of that path is under {audio_root} either: give the folder that holds the files "
        "as they were below the old one."
    )
