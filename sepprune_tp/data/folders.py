"""Folders of audio: ``mix*/x.wav s1/x.wav s2/x.wav`` (WHAM!, wsj0-mix, LibriMix, LRS2-2Mix)."""

from __future__ import annotations

from pathlib import Path

from sepprune_tp.errors import DataError

from .naming import mixes, source_names
from .stored import MixtureFiles

__all__ = ["folder_files"]

ENDINGS = (".wav", ".flac")


def folder_files(folder: Path, mix: str | None = None) -> list[MixtureFiles] | None:
    """List the mixtures of a folder in order of file name.

    Args:
        folder: Holds a folder of mixtures and folders ``s1``, ``s2``... with the same file names.
        mix: Name of the folder of mixtures; None takes the first of ``mix``, ``mix_clean``,
            ``mix_both`` and ``mix_single`` that is there.

    Returns:
        The files of every mixture, or None if there is no such folder of mixtures.

    Raises:
        DataError: If there are no sources, no audio, or a mixture lacks a source.
    """
    found = next((folder / name for name in mixes(mix) if (folder / name).is_dir()), None)
    if found is None:
        return None
    parts = [folder / name for name in source_names(found.name, lambda n: (folder / n).is_dir())]
    if not parts:
        raise DataError(
            f"{folder} has no s1/, s2/... with the sources of the mixtures in {found.name}/. They "
            "are needed under the same file names."
        )
    names = sorted(path.name for path in found.iterdir() if path.suffix in ENDINGS)
    if not names:
        raise DataError(f"{found} holds no {' or '.join(ENDINGS)} files. Fetch or make them again.")
    for part in parts:
        present = {path.name for path in part.iterdir()}
        if lacking := [name for name in names if name not in present]:
            raise DataError(
                f"{part} lacks {lacking[0]}, which {found} has ({len(lacking)} such in all). "
                "Every mixture needs all of its sources under the same name."
            )
    return [MixtureFiles(found / name, tuple(part / name for part in parts)) for name in names]
