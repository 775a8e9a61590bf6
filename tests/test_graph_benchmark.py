"""The graph benchmark: a row measured in a process of its own, limits, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("asteroid.models")
if not Path("/proc/self/clear_refs").exists():
    pytest.skip("memory is measured on Linux only", allow_module_level=True)

pytest.importorskip("benchmarks.graph", reason="benchmarks/ is not installed")

import benchmarks.graph.__main__ as benchmark
from benchmarks.graph import measure
from benchmarks.graph.rows import ROWS, GraphRow, extra_row

SMALL = {"n_src": 2, "n_filters": 12, "bn_chan": 8, "hid_chan": 10, "skip_chan": 6}
ROW = GraphRow(
    model="Tiny",
    variant="test",
    factory="asteroid.models:ConvTasNet",
    arguments=SMALL | {"n_repeats": 1, "n_blocks": 2},
    shape=(1, 800),
    alone=True,
)


def test_rows_are_told_apart() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) > 20
    extra = extra_row("benchmarks.models:build:tdanet", (1, 8000), "separator")
    assert (extra.model, extra.scope) == ("tdanet", "separator")


def test_a_row_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of both sides; a finished row is skipped, and the table shows it."""
    monkeypatch.setattr(benchmark, "START", 0)  # torch-pruning's side may well end at the limit
    file = tmp_path / "graph.json"
    record: dict[str, Any] = {"experiment": "graph", "model": "Tiny", "variant": "test"}
    record |= {"scope": "all"} | benchmark.measure(ROW, 6, 6) | benchmark.environment()
    assert record["failure"] is None, record
    assert record["error_float32"] < 1e-5 and record["error_float64"] < 1e-10 < record["change"]
    assert record["params_left"] == record["params_predicted"] < record["params"]
    assert 0 < record["prunable"] <= 1 and record["groups"] > 3
    theirs = record["torch_pruning"]
    assert theirs["works"] in (True, False) and theirs["how"]
    records = benchmark.Records(file, benchmark.KEYS)
    records.replace(record)
    records.replace(record)
    benchmark.table(file)
    page = file.with_suffix(".md").read_text()
    assert page.count("| Tiny | test |") == 2 and f"{record['prunable']:.1%}" in page
    assert len(json.loads(file.read_text())) == 1


def test_limits_and_failures() -> None:
    slow = benchmark.in_process("ours", ROW, 0.3, 6)
    assert "0.3 s" in slow["failure"] and slow["seconds"] < 30
    big = benchmark.in_process("ours", ROW, 60, 0.05)
    assert "0.05 GB" in big["failure"] and big["mb"] > 51
    missing = GraphRow("Tiny", "test", "asteroid.models:NoSuchNet", {}, (1, 800))
    assert "NoSuchNet" in benchmark.in_process("ours", missing, 60, 6)["failure"]


def test_half_masks_close_half() -> None:
    gates = SimpleNamespace(groups=[SimpleNamespace(name="a", size=9)])
    assert int(measure.half_masks(gates)["a"].sum()) == 4
