"""The script that runs torch-pruning's own tests, and the tables that are written from records."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("scripts/torch_pruning_tests.py", "torch_pruning_tests"),
        ("benchmarks/torchvision_models.py", "torchvision"),
    ],
)
def test_tables_are_written_from_records(script: str, name: str) -> None:
    pytest.importorskip("torchvision", reason="needs the extra 'test'")
    records = json.loads((RESULTS / f"{name}.json").read_text())
    assert loaded(ROOT / script).table(records) == (RESULTS / f"{name}.md").read_text()


def test_what_passes_on_torch_pruning_passes_or_has_a_reason() -> None:
    records = json.loads((RESULTS / "torch_pruning_tests.json").read_text())
    assert len(records) >= 31
    for record in records:
        if record["torch_pruning"] == "passed" and record["sepprune_tp"] != "passed":
            assert record["reason"], record["test"]


def test_every_torchvision_model_is_pruned_exactly() -> None:
    records = json.loads((RESULTS / "torchvision.json").read_text())
    assert len(records) >= 40
    for record in records:
        assert record["ours"]["outcome"] == "works", record["model"]
        assert record["difference"] <= 1e-10 < 1e-3 < record["from_dense"], record["model"]


@pytest.mark.slow
def test_the_script_runs_each_test_on_both_graphs(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import torch_pruning as tp\n"
        "def test_graph():\n    assert isinstance(tp.DependencyGraph(), tp.DependencyGraph)\n"
        "def test_theirs():\n    assert type(tp.DependencyGraph()).__name__ == 'DependencyGraph'\n"
    )
    (tmp_path / "test_program.py").write_text("raise SystemExit('not today')\n")
    script, out = ROOT / "scripts" / "torch_pruning_tests.py", tmp_path / "out.json"
    command = [sys.executable, str(script), "--tests", str(tmp_path), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = {r["test"]: (r["torch_pruning"], r["sepprune_tp"]) for r in json.loads(out.read_text())}
    assert found == {
        "test_program.py": ("failed", "failed"),
        "test_some.py::test_graph": ("passed", "passed"),
        "test_some.py::test_theirs": ("passed", "failed"),
    }
