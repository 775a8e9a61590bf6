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

    What is outside: lists name absolute paths as a rule, so without ``audio_root`` those may lie
    anywhere, and links are followed; relative ones may not climb by way of ``..``. With
    ``audio_root``, all files lie in it or beside the list once links are resolved; what does not is
    treated as if it did not exist.

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
        place = _Place(column.folder, audio_root, heads, _bounds(column.folder, audio_root))
        for number, text in enumerate(column.paths):
            path = _find(_normal(text, number, column), place)
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


@dataclass(frozen=True)
class _Place:
    """Where to look for a file.

    Attributes:
        folder: Of the list.
        audio_root: Where the audio was moved to, if it was.
        heads: What that holds, to spare most look-ups.
        bounds: Folders that files have to be in, links resolved; none: anywhere.
    """

    folder: Path
    audio_root: Path | None
    heads: frozenset[str]
    bounds: tuple[str, ...]


def _bounds(folder: Path, audio_root: Path | None) -> tuple[str, ...]:
    if audio_root is None:
        return ()
    return tuple(os.path.join(os.path.realpath(place), "") for place in (audio_root, folder))


def _find(normal: str, place: _Place) -> Path | None:
    """A file that exists, and is not outside."""
    listed = os.path.join(place.folder, normal)  # an absolute path replaces the folder
    if _is_inside(listed, place.bounds):
        return Path(listed)
    if place.audio_root is not None:
        parts = normal.strip(os.sep).split(os.sep)
        for first, head in enumerate(parts):
            if head in place.heads:
                moved = os.path.join(place.audio_root, *parts[first:])
                if _is_inside(moved, place.bounds):
                    return Path(moved)
    return None


def _is_inside(path: str, bounds: tuple[str, ...]) -> bool:
    """Whether there is a file, in one of the bounds if there are any."""
    return os.path.isfile(path) and (not bounds or os.path.realpath(path).startswith(bounds))


def _remedy(audio_root: Path | None) -> str:
    if audio_root is None:
        return "If the audio was moved, say where it is with audio_root (--audio-root)."
    return (
        f"No end of that path is under {audio_root} either (a link that leads out of it does not "
        "count): give the folder that holds the files as they were below the old one."
    )
