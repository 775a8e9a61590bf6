"""Times that were measured on this machine, kept between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch

from sepprune_tp.files import make_folder, write_text

from ...errors import WriteError

__all__ = ["TimeCache", "cache_folder", "machine_key"]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/sepprune_tp``, by default ``~/.cache/sepprune_tp``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sepprune_tp"


def machine_key(threads: int, device: torch.device) -> str:
    """What times depend on beside the layer: processor, torch and number of threads."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return f"{name}; torch {torch.__version__}; {threads} threads; {device.type}"


def _is_time(value: Any) -> bool:
    """Whether a value is a number of seconds that a layer takes."""
    return isinstance(value, float) and math.isfinite(value) and value > 0


class TimeCache:
    """Seconds by key, in one file a machine.

    Args:
        machine: See :func:`machine_key`.
        folder: Where the file is; None keeps nothing. What cannot be read there is measured anew,
            and what cannot be written is not kept.
    """

    def __init__(self, machine: str, folder: Path | None) -> None:
        self._machine = machine
        digest = hashlib.sha256(machine.encode()).hexdigest()[:16]
        self.path = None if folder is None else folder / f"latency-{digest}.json"
        self._seconds = self._read()
        self._new = False

    def _read(self) -> dict[str, float]:
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_text())
            if content["machine"] != self._machine:
                return {}
            return {key: value for key, value in content["seconds"].items() if _is_time(value)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def get(self, key: str) -> float | None:
        """The time of a key, if it was measured."""
        return self._seconds.get(key)

    def put(self, key: str, seconds: float) -> None:
        """Note a time; :meth:`write` keeps it."""
        self._seconds[key], self._new = seconds, True

    def write(self) -> None:
        """Write what is new beside the file and rename it; other processes' times are kept."""
        if self.path is None or not self._new:
            return
        content = {"machine": self._machine, "seconds": {**self._read(), **self._seconds}}
        with contextlib.suppress(WriteError):
            make_folder(self.path.parent)
            write_text(self.path, json.dumps(content))
        self._new = False
