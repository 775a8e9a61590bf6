"""Experiments that are scripts of their own: run as they are, shown as the page they write."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.config import Experiment

from .base import Kind, Only

__all__ = ["KIND"]

BENCHMARKS = Path(__file__).resolve().parents[1]


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    for line in experiment.options["commands"]:
        say(f"python {line}")
        subprocess.run([sys.executable, *shlex.split(line)], check=True, cwd=BENCHMARKS.parent)


def _page(experiment: Experiment) -> Path:
    return BENCHMARKS / "results" / str(experiment.options["page"])


def _status(experiment: Experiment) -> str:
    return f"{_page(experiment).name} is {'there' if _page(experiment).exists() else 'missing'}"


def _section(experiment: Experiment) -> list[str]:
    page = _page(experiment)
    if not page.exists():
        return []
    lines = page.read_text(encoding="utf-8").splitlines()
    body = [line for line in lines if not line.startswith("# ")]
    return ["#" + line if line.startswith("##") else line for line in body]


KIND = Kind(_run, _status, _section)
