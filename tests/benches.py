"""A tiny benchmark: synthetic speech in the layout of FSDD, an untrained model, a few cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import zoo
from benchmarks.harness.bench import Bench
from benchmarks.harness.config import Choice, Experiment, Recovery
from benchmarks.harness.data import open_corpus
from benchmarks.harness.dense import load, save, weights_of
from benchmarks.harness.records import Records

CONV = {
    "n_src": 2, "n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8, "hid_chan": 16,
    "skip_chan": 8, "n_blocks": 2, "n_repeats": 1, "mask_act": "relu", "sample_rate": 8000,
}  # fmt: skip


def write_recordings(root: Path) -> Path:
    """Two speakers, twelve recordings each; the folder for ``open_corpus``."""
    recordings = root / "data" / "recordings"
    recordings.mkdir(parents=True)
    soundfile = pytest.importorskip("soundfile")
    generator = torch.Generator().manual_seed(0)
    for speaker, pitch in (("ann", 200), ("bob", 310)):
        for index in range(12):
            time = torch.arange(6000) / 8000
            tone = torch.sin(6.28 * pitch * time) + 0.2 * torch.randn(6000, generator=generator)
            soundfile.write(recordings / f"0_{speaker}_{index}.wav", 0.1 * tone.numpy(), 8000)
    return root / "data"


def tiny_bench(
    data: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    built: tuple[str, Mapping[str, Any]] = ("asteroid:ConvTasNet", CONV),
) -> Bench:
    """A bench of the model ``tiny`` whose records and files are in ``work``."""
    monkeypatch.setitem(zoo.MODELS, "tiny", built)
    corpus = open_corpus({"name": "fsdd", "path": str(data)})
    checkpoints = work / "checkpoints"
    description = {"model": "tiny", "sample_rate": 8000}
    save(zoo.build("tiny"), weights_of("tiny", "fsdd", checkpoints), description)
    recoveries = {
        "pruned": Recovery("pruned"),
        "recovered": Recovery("recovered", steps=2, batch_size=2, seconds=0.5, precision="32"),
        "reconstructed": Recovery("reconstructed", first="least squares"),
        "scratch": Recovery("scratch", fresh=True, steps=1, batch_size=2, seconds=0.5),
    }
    experiment = Experiment(
        "tried",
        "quality",
        "Tried",
        models=("tiny",),
        budgets=(0.6,),
        seeds=(0,),
        criteria=(
            Choice("ours", "sepprune", {"steps": 4}),
            Choice("joint", "joint", {"steps": 2}, recoveries=("pruned", "recovered")),
        ),
        recoveries=recoveries,
        test={"mixtures": 3, "seconds": 0.5},
    )
    dense = load("tiny", "fsdd", checkpoints)
    return Bench(experiment, dense, corpus, Records(work / "tried.json"), work / "work")
