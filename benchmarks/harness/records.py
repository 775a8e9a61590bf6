"""Records of what was measured: written at once after every cell, found again by a later run."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sepprune_tp.evaluate import Evaluation
from sepprune_tp.files import make_folder, write_text

__all__ = [
    "UNREACHABLE",
    "Record",
    "Records",
    "environment",
    "origin",
    "scores",
    "write_atomically",
]

Record = dict[str, Any]
KEYS = ("experiment", "model", "data", "criterion", "budget", "seed", "recovery")
UNREACHABLE = "unreachable"
"""Stage of a record of what a criterion could not do; it has a ``reason`` and no figures."""
PACKAGES = ("sepprune-tp", "torch", "torch-pruning", "asteroid", "lightning", "fast-bss-eval")


class Records:
    """A JSON file that holds a list of records, one on a line, whole at every moment.

    Several processes may write to one file: each reads it again before it adds its own.

    Args:
        path: The file.
        keys: Fields that tell one record from another; a new one takes the place of the old.
    """

    def __init__(self, path: Path, keys: Sequence[str] = KEYS) -> None:
        self.path, self.keys = path, keys
        self.items: list[Record] = []
        self.read()

    def read(self) -> None:
        """Take over what other processes have written."""
        self.items = json.loads(self.path.read_text()) if self.path.exists() else []

    def find(self, **fields: Any) -> list[Record]:
        """Records with these values."""
        return [r for r in self.items if all(r.get(k) == v for k, v in fields.items())]

    def replace(self, *records: Record) -> None:
        """Put records in the place of those of the same keys, and write the file."""
        new = {tuple(record.get(k) for k in self.keys) for record in records}
        with self._alone():
            self.read()
            kept = [r for r in self.items if tuple(r.get(k) for k in self.keys) not in new]
            self.items = sorted([*kept, *records], key=self._place)
            lines = ",\n".join(json.dumps(record) for record in self.items)
            write_atomically(self.path, f"[\n{lines}\n]\n")

    def _place(self, record: Record) -> tuple[str, ...]:
        return tuple(str(record.get(key)) for key in self.keys)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            yield


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made."""
    make_folder(path.parent)
    write_text(path, text)


def scores(evaluation: Evaluation) -> Record:
    """The improvements over the mixture, in dB, mean and of every mixture."""
    values = evaluation.per_mixture["si_sdri"]
    return {
        "si_sdri": round(evaluation.si_sdri, 3),
        "sdri": round(evaluation.sdri, 3),
        "per_mixture": [round(value, 2) for value in values],
    }


def origin(records: Sequence[Record]) -> str:
    """Machines, versions and days of records, in a sentence for their table."""
    last = max(records, key=lambda record: str(record["date"]))
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    days = sorted({str(record["date"])[:10] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = sorted({str(record["machine"]) for record in records})
    return f"{'; '.join(machines)}; {versions}; {when}."


def environment() -> Record:
    """Machine, package versions and date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """Name of the graphics processor if there is one, else of the processor."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
