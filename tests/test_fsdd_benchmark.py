"""The FSDD benchmark's own parts: the faster norm is the same norm, records and tables are true."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("asteroid", reason="the benchmark needs the extra 'asteroid'")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import _fsdd_dense as dense  # noqa: E402
from _fsdd_table import page  # noqa: E402
from _records import Records  # noqa: E402

from sepprune_tp.errors import CheckpointError  # noqa: E402


def record(stage: str, seed: int, si_sdri: float, criterion: str = "sepprune") -> dict[str, Any]:
    return {
        "experiment": "fsdd",
        "criterion": criterion,
        "budget": 1.0 if stage == "dense" else 0.5,
        "seed": seed,
        "stage": stage,
        "si_sdri": si_sdri,
        "sdri": si_sdri + 0.25,
        "params": 1000,
        "macs": 2_000_000,
        "macs_share": 0.499,
        "seconds": 3.0,
        "by_pair": {"a + b": {"si_sdri": 4.5, "mixtures": 7}},
        "machine": "a machine",
        "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "test_mixtures": 150,
        "test_seconds": 3.0,
    }


def test_fast_norm_is_the_same_layer_and_is_taken_back() -> None:
    model = dense.build().eval().double()
    mixture = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "beta")):
                parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel()))
        original = dense.GlobLN.forward
        before = model(mixture)
        with dense.fast_global_norm():
            assert dense.GlobLN.forward is not original
            torch.testing.assert_close(model(mixture), before, atol=1e-9, rtol=0)
        assert dense.GlobLN.forward is original
        assert torch.equal(model(mixture), before)


def test_build_follows_its_seed() -> None:
    state = torch.get_rng_state()
    first, again, other = (dense.build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_saved_model_comes_back(tmp_path: Path) -> None:
    model, path = dense.build(seed=3).eval(), tmp_path / "model.safetensors"
    dense.save(model, path, {"model": "ConvTasNet", "model_args": dense.MODELS["ConvTasNet"]})
    loaded, _ = dense.load(path)
    mixture = torch.ones(1, 1000)
    with torch.no_grad():
        assert torch.equal(loaded(mixture), model(mixture))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"fsdd\.py train"):
        dense.load(path)


def test_records_replace_those_of_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.json"
    records = Records(path)
    records.replace(record("dense", 0, 8.0), record("pruned", 0, 5.0))
    records.replace(record("pruned", 0, 6.0), record("pruned", 1, 7.0))
    assert [r["si_sdri"] for r in Records(path).items] == [8.0, 6.0, 7.0]
    assert Records(path).find(stage="pruned", seed=1) == [record("pruned", 1, 7.0)]
    assert json.loads(path.read_text()) == records.items


def test_page_states_means_and_spreads() -> None:
    runs = [record("dense", 0, 8.0, "none")]
    for seed, value in ((0, 5.0), (1, 7.0)):
        runs += [record("pruned", seed, value), record("recovered", seed, value + 1)]
    text = page(runs)
    assert "Dense: 8.00 dB SI-SDRi, 8.25 dB SDRi, 1,000 parameters, 2.0 M MACs" in text
    row = "| 50% | sepprune | 2 | 6.00 ± 1.41 | 7.00 ± 1.41 | 7.25 ± 1.41 | 1,000 | 49.9% | 3 | 3 |"
    assert row in text
    assert "| a + b | 4.50 | 7 |" in text
