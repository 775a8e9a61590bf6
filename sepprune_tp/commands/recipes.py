"""The ``conf.yml`` of Asteroid's training recipes: where their data is, and how they trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepprune_tp.commands.config import Config, Flag, nearest, read_yaml
from sepprune_tp.errors import DataError, InputError

__all__ = ["RecipeData", "is_recipe", "read_data", "read_recipe"]

MODEL = {"filterbank", "masknet", "net", "model", "demask_net", "encoder", "decoder", "masker"}
"""Sections that describe the model, which comes from its own file."""
RUN = {"main_args", "positional arguments", "optional arguments", "options"}
"""Sections that recipes add when they save what they were run with."""
ELSE = {"scheduler", "augmentation"}
"""Sections about their training that have no counterpart here."""
TAKEN = {"data", "training", "optim"}

_DATA = {"train_dir", "valid_dir", "sample_rate", "nondefault_nsrc", "n_src", "segment", "task"}
_DATA_LEFT = {"mode", "num_workers", "data_augmentation"}
_TRAINING_LEFT = {
    "accumulate_batches",
    "early_stop",
    "epochs",
    "gradient_clipping",
    "half_lr",
    "loss_alpha",
    "num_workers",
    "patience",
    "save_top_k",
}
_OPTIM_LEFT = {"optimizer", "weight_decay", "patience", "lr_decay_patience", "lr_decay_gamma"}
_TASKS = {
    "sep_clean": "mix_clean",
    "sep_noisy": "mix_both",
    "enh_single": "mix_single",
    "enhance_single": "mix_single",  # WHAM!'s name for it
}
_WHY = {
    "training.epochs": "--steps says how long",
    "optim.lr": "--lr is that of the gates",
}


@dataclass(frozen=True)
class RecipeData:
    """The data of a recipe.

    Attributes:
        path: The recipe's file.
        train: Folder of the training mixtures, as written.
        val: Folder of the validation mixtures, as written.
        mix: Name of the mixtures, or None for what is there.
        sample_rate: In Hz, if the recipe says it.
        n_src: Speakers in a mixture, if the recipe says it.
        seconds: Length of its training segments, if the recipe says it.
    """

    path: Path
    train: Path
    val: Path
    mix: str | None = None
    sample_rate: int | None = None
    n_src: int | None = None
    seconds: float | None = None

    def folder(self, split: str) -> Path:
        """Where a split is.

        Folders are looked for from here, and from the file's folder upwards, as recipes are run
        from the folder above their ``local/conf.yml``. Recipes do not name the test mixtures: they
        are looked for beside those for validation.

        Raises:
            DataError: If there is no such folder.
        """
        if split != "test":
            return self._found(
                *(("valid_dir", self.val) if split == "val" else ("train_dir", self.train))
            )
        above = self._found("valid_dir", self.val).parent
        found = next((above / name for name in ("test", "tt") if (above / name).is_dir()), None)
        if found is None:
            raise DataError(
                f"{self.path} names no test mixtures, and there is no test/ or tt/ in {above}. "
                "Pass --split val, or --data FOLDER."
            )
        return found

    def _found(self, key: str, named: Path) -> Path:
        bases = [Path(), *self.path.resolve().parents[:3]]
        found = next((base / named for base in bases if (base / named).is_dir()), None)
        if found is None:
            raise DataError(
                f"data.{key} of {self.path} is {named}, which is a folder neither from here nor "
                f"from {bases[1]} or the two folders above it. Run from the recipe's folder, "
                "write the full path, or pass --data FOLDER."
            )
        return found


def is_recipe(content: Mapping[Any, Any]) -> bool:
    """Whether a file has the sections of a recipe."""
    return any(isinstance(content.get(name), dict) for name in (*TAKEN, *MODEL, *RUN))


def read_recipe(
    path: Path,
    content: Mapping[Any, Any],
    command: str,
    flags: Mapping[str, Flag],
    typed: Collection[str] = (),
) -> Config:
    """What a recipe says about the options of a command.

    Args:
        path: The file.
        content: What it holds.
        command: Name of the command.
        flags: What it takes.
        typed: What the command line sets, which wins.

    Raises:
        InputError: If a section or key is unknown, or of the wrong type.
    """
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    for name in sections:
        if name not in MODEL | RUN | ELSE | TAKEN:
            known = sorted(MODEL | RUN | ELSE | TAKEN)
            raise InputError(f"{path}: unknown section {name}. {nearest(str(name), known)}")
    given: dict[str, tuple[str, Any]] = {}
    if "data" in sections:
        data = read_data(path, sections["data"])
        if "data" not in typed:  # else these are of other data
            given["data"] = ("data.train_dir, data.valid_dir", str(path))
            given["mix"] = ("data.task", data.mix)
            given["sample_rate"] = ("data.sample_rate", data.sample_rate)
        given["seconds"] = ("data.segment", data.seconds)
    training, optim = sections.get("training", {}), sections.get("optim", {})
    _known(path, "training", training, {"batch_size"}, _TRAINING_LEFT)
    _known(path, "optim", optim, {"lr"}, _OPTIM_LEFT)
    given["batch_size"] = ("training.batch_size", training.get("batch_size"))
    if command == "finetune":
        given["lr"] = ("optim.lr", optim.get("lr"))
    found, taken = Config(), set()
    told = []
    for name, (origin, value) in given.items():
        if value is None or name not in flags or (name == "seconds" and "data" not in flags):
            continue
        found.values[name] = flags[name].read(value, f"{origin} in {path}")
        taken |= set(origin.split(", "))
        if name in typed:
            continue
        told.append(f"--{name.replace('_', '-')} {found.values[name]} ({origin})")
    left = [
        f"{section}.{key}"
        for section in ("data", "training", "optim")
        for key, value in sections.get(section, {}).items()
        if f"{section}.{key}" not in taken and value is not None
    ]
    left = [f"{key} ({_WHY[key]})" if key in _WHY else key for key in left if key not in _CHECKED]
    found.notes.append(f"From {path}: {', '.join(told) or 'nothing'}.")
    if left:
        found.notes.append(f"Left out: {', '.join(left)}.")
    unread = [name for name in sections if name in MODEL]
    if unread:
        found.notes.append(f"Not read, the model knows itself: {', '.join(unread)}.")
    return found


_CHECKED = {"data.n_src", "data.nondefault_nsrc"}  # compared with the folders when these are opened


def read_data(path: Path, section: Mapping[str, Any] | None = None) -> RecipeData:
    """The data of a recipe.

    Args:
        path: The recipe's file.
        section: Its section ``data``, if it was read already.

    Raises:
        InputError: If there is no such section, or it holds what is not understood.
    """
    if section is None:
        section = read_yaml(path).get("data")
        if not isinstance(section, dict):
            raise InputError(
                f"{path} has no section data: with train_dir and valid_dir, as the conf.yml of "
                "Asteroid's recipes. Give --data a folder, or such a file."
            )
    _known(path, "data", section, _DATA, _DATA_LEFT)
    for key in ("train_dir", "valid_dir"):
        if not section.get(key):
            raise InputError(f"{path} has no data.{key}. Give --data a folder instead.")
    task = section.get("task")
    if task is not None and task not in _TASKS:
        raise InputError(
            f"data.task in {path} is {task!r}; the tasks whose targets are the sources s1, s2... "
            f"are {', '.join(_TASKS)}. Give --data a folder with such targets."
        )
    count = section.get("nondefault_nsrc")
    count = section.get("n_src") if count is None else count
    numbers = {
        "sample_rate": (int, section.get("sample_rate")),
        "n_src": (int, count),
        "segment": (float, section.get("segment") or None),
    }
    read = {
        key: None if value is None else Flag(key, kind).read(value, f"data.{key} in {path}")
        for key, (kind, value) in numbers.items()
    }
    folders = [
        Path(Flag(key, Path).read(section[key], f"data.{key} in {path}")).expanduser()
        for key in ("train_dir", "valid_dir")
    ]
    return RecipeData(
        path=path,
        train=folders[0],
        val=folders[1],
        mix=None if task is None else _TASKS[task],
        sample_rate=read["sample_rate"],
        n_src=read["n_src"],
        seconds=read["segment"],
    )


def _known(
    path: Path, name: str, section: Mapping[str, Any], taken: set[str], left: set[str]
) -> None:
    """Refuse keys of a section that nothing is known about."""
    for key in section:
        if key not in taken | left:
            raise InputError(
                f"{path}: {name}.{key} is not understood. {nearest(str(key), taken | left)}"
            )
