"""The deployed forms of a model are measured once, for what they are, and shown in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("lightning", reason="the benchmarks need the extra 'train'")
pytest.importorskip("onnxruntime", reason="ONNX needs the extra 'export'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")

from benches import CONV, tiny_bench, write_recordings

from benchmarks.harness.config import Experiment
from benchmarks.harness.records import Records
from benchmarks.kinds import deploy

RECURRENT = {
    "n_src": 2, "n_filters": 16, "kernel_size": 16, "stride": 8, "bn_chan": 8, "hid_size": 8,
    "chunk_size": 20, "n_repeats": 1, "mask_act": "relu", "sample_rate": 8000,
}  # fmt: skip
EXPERIMENT = Experiment(
    "deployed",
    "deploy",
    "Deployed",
    models=("tiny",),
    options={"of": "tried", "cells": [["ours", 0.6, "reconstructed"]], "runs": 2},
)


@pytest.mark.parametrize(
    ("built", "refused"),
    [
        (("asteroid:ConvTasNet", CONV), {"int8"}),
        (("asteroid:DPRNNTasNet", RECURRENT), {"torch.export"}),
    ],
    ids=["convolutions", "recurrent"],
)
def test_every_form_is_measured_or_refused(
    built: Any, refused: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = tiny_bench(write_recordings(tmp_path), tmp_path, monkeypatch, built)
    monkeypatch.setattr(deploy, "find", lambda name: bench.experiment)
    monkeypatch.setattr(deploy, "benches", lambda experiment, models: [bench])
    monkeypatch.setattr(deploy, "records_of", lambda experiment: tmp_path / "deployed.json")
    said: list[str] = []
    deploy.KIND.run(EXPERIMENT, {}, said.append)
    items = Records(tmp_path / "deployed.json", deploy.KEYS).items
    assert len(items) == 2 * 7
    assert {r["form"] for r in items if "refused" in r} == refused
    for record in (r for r in items if "refused" not in r):
        assert record["latency_ms"] > 0 and record["ratio"] > 0
    first = next(r for r in items if r["stage"] == "dense" and r["form"] == "as it is")
    assert first["ratio"] == 1.0
    assert {r["form"] for r in items if "si_sdri" in r} == {"as it is", "int8"} - refused
    before = (tmp_path / "deployed.json").read_bytes()
    deploy.KIND.run(EXPERIMENT, {}, said.append)
    assert len(said) == 1 and (tmp_path / "deployed.json").read_bytes() == before
    lines = deploy.KIND.section(EXPERIMENT)
    assert sum("refused" in line for line in lines) == 2 * len(refused)
    assert lines[4].startswith("| dense | as it is |") and lines[11].startswith("| 60% |")
