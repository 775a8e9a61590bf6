"""Benchmark records: written after every measurement, found again by a later run."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sepprune_tp.data import MixtureDataset
from sepprune_tp.evaluate import Evaluation
from sepprune_tp.files import make_folder, write_text

__all__ = ["Records", "by_pair", "data_hash", "environment", "origin", "scores"]

KEYS = ("experiment", "model", "criterion", "budget", "seed", "stage", "repair")
PACKAGES = ("sepprune-tp", "torch", "torch-pruning", "asteroid", "lightning", "fast-bss-eval")


class Records:
    """A JSON file that holds a list of records, kept whole at every moment.

    Several processes may write to one file: each reads it again before it adds its own.

    Args:
        path: The file.
        keys: Fields that tell one record from another; a new one takes the place of the old.
    """

    def __init__(self, path: Path, keys: Sequence[str] = KEYS) -> None:
        self.path, self.keys = path, keys
        self.items: list[dict[str, Any]] = []
        self.read()

    def read(self) -> None:
        """Take over what other processes have written."""
        self.items = json.loads(self.path.read_text()) if self.path.exists() else []

    def find(self, **fields: Any) -> list[dict[str, Any]]:
        """Records with these values."""
        return [r for r in self.items if all(r.get(k) == v for k, v in fields.items())]

    def replace(self, *records: dict[str, Any]) -> None:
        """Put records in the place of those of the same run and stage, and write the file."""
        new = {tuple(record.get(k) for k in self.keys) for record in records}
        with self._alone():
            self.read()
            kept = [r for r in self.items if tuple(r.get(k) for k in self.keys) not in new]
            self.items = [*kept, *records]
            write_atomically(self.path, json.dumps(self.items, indent=1) + "\n")

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


def scores(evaluation: Evaluation) -> dict[str, float]:
    """The improvements over the mixture, in dB, as a record holds them."""
    return {"si_sdri": round(evaluation.si_sdri, 3), "sdri": round(evaluation.sdri, 3)}


def by_pair(evaluation: Evaluation, mixtures: MixtureDataset) -> dict[str, dict[str, float]]:
    """Mean SI-SDRi, in dB, and number of mixtures of every pair of speakers."""
    pairs: defaultdict[str, list[float]] = defaultdict(list)
    for index, value in enumerate(evaluation.per_mixture["si_sdri"]):
        pairs[" + ".join(sorted(mixtures.speakers(index)))].append(value)
    return {
        pair: {"si_sdri": round(sum(values) / len(values), 2), "mixtures": len(values)}
        for pair, values in sorted(pairs.items())
    }


def origin(records: Sequence[dict[str, Any]]) -> str:
    """Machine, versions and days of records, in a sentence for their table."""
    last = max(records, key=lambda record: str(record["date"]))
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    days = sorted({str(record["date"])[:10] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{last['machine']}; {versions}; {when}."


def environment() -> dict[str, Any]:
    """Machine, package versions and date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)",
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def data_hash(folder: Path) -> str:
    """SHA-256 over names and bytes of all recordings."""
    digest = hashlib.sha256()
    for path in sorted((folder / "recordings").iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
