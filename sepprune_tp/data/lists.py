"""JSON lists: ``mix*.json s1.json s2.json``, each of ``[path, samples]``, matched by position.

Asteroid lists WHAM! and wsj0-mix so, Look2Hear (TDANet, TIGER) LRS2-2Mix, Libri2Mix and EchoSet.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sepprune_tp.errors import DataError

from .listed import Column, find_files, shown
from .naming import mixes, source_names
from .stored import MixtureFiles

__all__ = ["json_files"]


def json_files(
    folder: Path, mix: str | None = None, *, audio_root: Path | None = None
) -> list[MixtureFiles] | None:
    """Read the lists of a folder.

    Args:
        folder: Holds a list of mixtures and ``s1.json``, ``s2.json``...
        mix: Name of the list of mixtures, without its ending; None takes the first of ``mix``,
            ``mix_clean``, ``mix_both`` and ``mix_single`` that is there.
        audio_root: Where the audio is, if not where the lists say.

    Returns:
        The files of every mixture in the lists' order, or None if there is no list of mixtures.

    Raises:
        DataError: If a list is malformed, lists do not go together, or files are missing.
    """
    name = next((n for n in mixes(mix) if _path(folder, n).is_file()), None)
    if name is None:
        return None
    sources = source_names(name, lambda n: _path(folder, n).is_file())
    if not sources:
        raise DataError(
            f"{folder} has {name}.json, but no s1.json, s2.json... with the sources of its "
            "mixtures. They are needed as lists of the same order."
        )
    paths = [_path(folder, part) for part in (name, *sources)]
    lists = [_read(path) for path in paths]
    _check_together(paths, lists)
    columns = [
        Column(str(path), folder, [text for text, _ in entries])
        for path, entries in zip(paths, lists, strict=True)
    ]
    return find_files(columns, audio_root)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _read(path: Path) -> list[tuple[str, int]]:
    """A list of paths and their numbers of samples."""
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({type(error).__name__}: {error}). Make the list again."
        ) from error
    if not isinstance(entries, list):
        raise DataError(
            f"{path} holds a {type(entries).__name__}, expected a list of [path, samples]."
        )
    if not entries:
        raise DataError(f"{path} is an empty list. Make it again from a folder that holds audio.")
    return [_entry(path, number, entry) for number, entry in enumerate(entries)]


def _entry(path: Path, number: int, entry: Any) -> tuple[str, int]:
    """A path and its number of samples."""
    if isinstance(entry, list) and len(entry) == 2:
        text, samples = entry
        counted = isinstance(samples, int) and not isinstance(samples, bool) and samples > 0
        if isinstance(text, str) and text and counted:
            return text, samples
    raise DataError(
        f"Entry {number} of {path} is {shown(entry)}, expected [path, samples] with a number of "
        "samples above 0. Make the list again."
    )


def _check_together(paths: list[Path], lists: list[list[tuple[str, int]]]) -> None:
    """Lists matched by position have to be equally long, and so have their entries."""
    for path, entries in zip(paths[1:], lists[1:], strict=True):
        if len(entries) != len(lists[0]):
            raise DataError(
                f"{path} has {len(entries)} entries, {paths[0]} {len(lists[0])}. They are matched "
                "by position: make all lists again from the same files."
            )
        for number, (mixture, source) in enumerate(zip(lists[0], entries, strict=True)):
            if mixture[1] != source[1]:
                raise DataError(
                    f"Entry {number} of {path} has {shown(source[1])} samples, its mixture in "
                    f"{paths[0].name} {shown(mixture[1])}: the lists do not go together. Make all "
                    "of them again from the same files."
                )
