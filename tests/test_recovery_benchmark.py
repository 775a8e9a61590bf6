"""The recovery benchmark: its methods do what their names say, and its page says what was run."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("asteroid", reason="the benchmark needs the extra 'asteroid'")
pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not installed", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import recovery as benchmark  # noqa: E402
from _recovery_table import page  # noqa: E402
from test_reconstruction import pruned_with_kept  # noqa: E402


def record(**fields: Any) -> dict[str, Any]:
    base = {"model": "ConvTasNet", "criterion": "sepprune", "budget": 0.5, "stage": "recovered",
            "method": "training", "steps": 120, "seconds": 9.0, "si_sdri": 5.0,
            "test_mixtures": 60, "machine": "here", "versions": {"torch": "2"},
            "date": "2026-01-02T03:04:05"}  # fmt: skip
    return {**base, **fields}


def test_page_holds_means_and_spreads_of_what_was_run() -> None:
    records = [
        record(stage="dense", method="dense", si_sdri=8.0, steps=0),
        record(stage="pruned", method="none", steps=0, si_sdri=3.0),
        record(seed=0, si_sdri=5.0),
        record(seed=1, si_sdri=6.0),
        record(budget=0.25, si_sdri=1.0),
    ]
    lines = page(records, ["none", "training", "never run"]).splitlines()
    assert "| | sepprune, 50% | sepprune, 25% | seconds |" in lines
    assert "| none | 3.00 (1) |  | 9 |" in lines
    assert "| training | 5.50 ± 0.71 (2) | 1.00 (1) | 9 |" in lines
    assert any("Dense: 8.00 dB on 60 test mixtures" in line for line in lines)
    assert not any("never run" in line for line in lines)


@pytest.mark.parametrize("name", [n for n, m in benchmark.METHODS.items() if not m.loss])
def test_methods_without_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, pruned, kept = pruned_with_kept("ConvTasNet-gLN")
    mixture = torch.randn(4, 400, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(benchmark.dense, "train_set", lambda *a, **k: None)
    monkeypatch.setattr(benchmark, "batches", lambda *a, **k: [(mixture, None)])
    changed = copy.deepcopy(pruned)
    method = benchmark.METHODS[name]
    benchmark.apply(method, changed, dense, kept, Path(), steps=1, seed=0)
    pairs = zip(pruned.parameters(), changed.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs) == bool(method.first)
