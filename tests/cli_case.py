"""A small model and mixtures on disk, and the command line on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_trees import mixtures, write_audio

from sepprune_tp.checkpoint import save_pruned
from sepprune_tp.cli import main

ROOT = Path(__file__).parents[1]
SPLITS = {"tr": 6, "cv": 2, "tt": 2}


def write_model(path: Path) -> Path:
    """A small untrained Conv-TasNet."""
    from asteroid.models import ConvTasNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )
    return save_pruned(net, path)


def write_data(folder: Path, mix: str = "mix_clean") -> Path:
    """``tr/ cv/ tt/`` as WHAM! has them."""
    for seed, (split, count) in enumerate(SPLITS.items()):
        write_audio(folder / split, mixtures(count, seed=seed), mix)
    return folder


def run(*arguments: object) -> int:
    """A command in this process."""
    return main([str(argument) for argument in arguments])


def result(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    """The one JSON document that a command prints."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def message(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that has to fail says, in one line."""
    capsys.readouterr()
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    return " ".join(shown.err.split())


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as people start it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sepprune_tp.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def everything(folder: Path) -> dict[Path, bytes]:
    """All files of a folder, to see that nothing was written."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
