"""The zoo: rows, outputs in any object, limits of a process, the page, and one row in earnest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("benchmarks.zoo", reason="benchmarks/ is not installed")
if not Path("/proc/self/status").exists():
    pytest.skip("memory is measured on Linux only", allow_module_level=True)

from benchmarks.zoo import outputs, table, verdicts
from benchmarks.zoo.left_out import LEFT_OUT
from benchmarks.zoo.models import ROWS
from benchmarks.zoo.process import measured

ROOT = Path(__file__).resolve().parents[1]
ROW = "torchvision squeezenet1_1"
Tell = Callable[[dict[str, Any]], None]


def test_rows_are_told_apart_and_many() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    libraries = [row.library for row in ROWS]
    assert libraries.count("timm") >= 60 and libraries.count("transformers") >= 35
    generations = {row.model[:6] for row in ROWS if row.library == "ultralytics"}
    assert {"yolov5", "yolov8", "yolo11", "yolo12"} <= generations
    wanted = {"torchvision", "torchaudio", "demucs", "denoiser", "open-unmix", "bs-roformer"}
    assert wanted | {"speechbrain", "deepfilternet", "asteroid"} <= set(libraries)
    assert all(LEFT_OUT.values())


@dataclass
class Held:
    first: torch.Tensor
    rest: Any


def test_tensors_are_found_in_any_object() -> None:
    a, b, c = torch.zeros(1), torch.ones(2), torch.arange(3)
    held = Held(a, [SimpleNamespace(x={"y": b}), (c, "text", None)])
    held.rest.append(held)  # an object that holds itself ends
    assert [id(t) for t in outputs.tensors(held)] == [id(a), id(b), id(c)]
    assert [id(t) for t in outputs.floats(held)] == [id(a), id(b)]


def test_difference_of_outputs() -> None:
    x = torch.tensor([1.0, -4.0])
    assert outputs.difference([x, x], [x, x]) == 0
    assert outputs.difference({"a": x + 0.4}, {"a": x}) == pytest.approx(0.1)
    assert outputs.difference(x, x[:1]) == float("inf")
    assert outputs.difference(x * float("nan"), x) == float("inf")


def test_one_more_item_in_the_batch() -> None:
    more = outputs.larger({"x": torch.tensor([[1, 2], [3, 4]])})
    assert more["x"].tolist() == [[1, 2], [3, 4], [2, 1]]
    with pytest.raises(TypeError, match="list has no batch"):
        outputs.larger(([torch.zeros(1)],))


def test_casts_to_single_precision_become_double() -> None:
    x = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    with outputs.InDouble():
        assert x.float().dtype == x.to(torch.float32).dtype == torch.float64
        assert torch.zeros(1, dtype=torch.float32).dtype == torch.float64
    assert x.float().dtype == torch.float32


def _sleeps(row: Any, tell: Tell) -> None:
    tell({"stage": row})
    time.sleep(60)


def _raises(row: Any, tell: Tell) -> None:
    raise ValueError("no such network")


def _tells(row: Any, tell: Tell) -> None:
    tell({"twice": row * 2})


def test_limits_and_failures_of_a_process() -> None:
    slow = measured(_sleeps, "asleep", 0.5, 6)
    assert "0.5 s" in slow["ended"] and slow["stage"] == "asleep" and slow["seconds"] < 20
    big = measured(_sleeps, "asleep", 20, 0.001)
    assert "0.001 GB" in big["ended"]
    assert measured(_raises, "", 20, 6)["broken"] == "ValueError: no such network"
    good = measured(_tells, 4, 20, 6)
    assert good["twice"] == 8 and "ended" not in good


def _record(model: str, ours: dict[str, Any], **sides: Any) -> dict[str, Any]:
    measured_at = {"machine": "a machine", "versions": {"torch": "2"}, "date": "2026-01-01"}
    return {
        "experiment": "zoo",
        "library": "x",
        "model": model,
        "ours": ours,
        **sides,
        **measured_at,
    }


GOOD: dict[str, Any] = {
    "params": 1000,
    "groups": 2,
    "channels": 12,
    "share": 0.95,
    "graph_seconds": 0.5,
    "reasons": [{"reason": "it is an output of the model"}, {"reason": "a | b, in 'c' (d.py:1)"}],
    "precision": "float64",
    "errors": [1e-15, 2e-15],
    "left": 600,
    "forward": True,
    "backward": "finite",
    "round_trip": "bit for bit",
    "failures": [],
}
FAILURE = {"stage": "graph", "type": "GraphError", "message": "no rule", "ours": ""}
LOST = {"stage": "file", "type": "CheckpointError", "message": "a size is lacking", "ours": ""}
RECORDS = [
    _record("good", GOOD, host={"stage": "done", "left": 500}, host_with_heads={"heads": 0}),
    _record("wrong", GOOD | {"errors": [1e-15, 0.1]}, host={"failures": [FAILURE]}),
    _record("crashes", {"params": 1000, "failures": [FAILURE]}, host={"ended": "ended after 5 s"}),
    _record("single", GOOD | {"precision": "float32", "errors": [1e-6, 1e-6], "share": 0.5}),
    _record("no file", GOOD | {"failures": [LOST]}),
]


def test_verdicts() -> None:
    assert [verdicts.works(record) for record in RECORDS] == [True, False, False, True, True]
    assert [verdicts.exact(record) for record in RECORDS] == [True, False, None, True, True]
    batch = _record("batch", GOOD | {"error_another_batch": 0.2})
    assert verdicts.exact(batch) is False and verdicts.worst(batch) == 0.2
    assert verdicts.verdict(RECORDS[1]).startswith("WRONG")
    assert verdicts.verdict(RECORDS[2]) == "graph: GraphError: no rule"
    assert verdicts.keeps_more(RECORDS[0]) == pytest.approx(1.2)
    assert verdicts.keeps_more(RECORDS[1]) is None


def test_page_from_records() -> None:
    page = table.page(RECORDS)
    summary = table.summary(RECORDS)
    assert len(summary) == 4 and all(f"- {line}\n" in page for line in summary)
    assert summary[0].startswith("3 of 5 networks work and are exact (60%); 1 are silently wrong")
    assert "3 of 5 come back from a file bit for bit" in summary[0]
    assert summary[1].startswith("2 of 5 (40%)")
    assert summary[3].endswith("on 1, most often because: a | b.")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    widths = {line.replace("\\|", "").count("|") for line in lines}
    assert widths == {len(table.HEAD) + 1, 4}
    assert "| x good | 1,000 | works | 95.0% | 2 | 12 | 2e-15 | 60% | both | bit for bit |" in page
    assert "| x good | 1.20 | a \\| b, in 'c' (d.py:1) |" in page
    assert "1e-06 (f32)" in page and "| both | a size is lacking |" in page


def test_a_row_end_to_end(tmp_path: Path) -> None:
    """Measured in its own processes, kept, skipped the second time, and shown in the table."""
    pytest.importorskip("torchvision")
    file = tmp_path / "zoo.json"
    command = [sys.executable, "-m", "benchmarks.zoo", "run", "--only", ROW, "--results", str(file)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{ROW}: works" in first.stdout, first.stdout + first.stderr
    (record,) = json.loads(file.read_text())
    ours = record["ours"]
    assert verdicts.works(record) and max(ours["errors"]) < 1e-10 < ours["change"]
    assert ours["left"] < ours["params"] and 0.9 < ours["share"] <= 1
    assert ours["round_trip"] == "bit for bit" and ours["backward"] == "finite"
    assert record["host"]["left"] < ours["params"] and record["host_with_heads"]["heads"] == 0
    assert f"| {ROW} |" in file.with_suffix(".md").read_text()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not second.stdout.strip()
