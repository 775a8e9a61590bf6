"""``--data``: a folder of mixtures, or the ``conf.yml`` of a recipe that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sepprune_tp.commands.recipes import read_data
from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import InputError

__all__ = ["open_data"]


def open_data(data: Path, split: str, *, sample_rate: int, mix: str | None, **options: Any) -> Any:
    """Open a split, wherever ``--data`` says that it is.

    Args:
        data: A folder as for :func:`sepprune_tp.data.open_mixtures`, or a YAML file.
        split: ``"train"``, ``"val"`` or ``"test"``.
        sample_rate: Of the model, in Hz.
        mix: Name of the mixtures; None: what the file says, or what is there.
        **options: Of ``open_mixtures``.

    Returns:
        A sized data set of (mixture (T,), sources (S, T)).

    Raises:
        InputError: If the file is no recipe's, or of another sample rate.
        DataError: If the data cannot be opened.
    """
    if data.suffix not in (".yml", ".yaml"):
        return open_mixtures(data, split, sample_rate=sample_rate, mix=mix, **options)
    recipe = read_data(data)
    if recipe.sample_rate not in (None, sample_rate):
        raise InputError(
            f"The data of {data} has {recipe.sample_rate} Hz, the model {sample_rate} Hz. Give "
            "the data of the model's rate."
        )
    folders = {split: recipe.folder(split)}
    wanted = recipe.mix if mix is None else mix
    return open_mixtures(
        folders, split, sample_rate=sample_rate, mix=wanted, n_src=recipe.n_src, **options
    )
