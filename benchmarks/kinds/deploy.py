"""Models in every form that they can be run in: seconds and bytes of each, in turns in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness.bench import Bench
from benchmarks.harness.cells import Cell
from benchmarks.harness.config import Experiment, find
from benchmarks.harness.records import Record, Records, environment, origin
from benchmarks.harness.running import benches, records_of
from benchmarks.pages.markdown import table
from sepprune_tp import optimize_for_inference, profile, quantise, save_pruned
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.evaluate import evaluate
from sepprune_tp.exporting import export_model
from sepprune_tp.exporting.formats import Runner, read_exported
from sepprune_tp.measure.latency import compare_latency

from .base import Kind, Only
from .named import key_of, named_cells

__all__ = ["KIND"]

FILES = {"TorchScript": "model.pt", "ONNX": "model.onnx", "torch.export": "model.pt2"}
KEYS = ("experiment", "model", "data", "criterion", "budget", "seed", "recovery", "form")


class Running(nn.Module):
    """What an exported file computes, called as a model is."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.run = run

    def forward(self, mixture: Tensor) -> Tensor:
        return self.run(mixture)


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    source = find(experiment.options["of"])
    records = Records(records_of(experiment), KEYS)
    for bench in benches(source, only.get("model") or experiment.models):
        cells = named_cells(experiment, source)
        origins = [bench.run(cell)["identity"] for cell in cells]
        before = records.find(experiment=experiment.name, model=bench.dense.name)
        if before and {record["origin"] for record in before} == set(origins):
            continue
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            rows = _measure(experiment, bench, cells, Path(folder))
        for (number, form), row in rows.items():
            row |= {**key_of(experiment, bench, cells[number]), "form": form}
            row |= {"origin": origins[number], **environment()}
        records.replace(*rows.values())
        say(f"{bench.dense.name}: {len(rows)} forms")


def _measure(
    experiment: Experiment, bench: Bench, cells: list[Cell], folder: Path
) -> dict[tuple[int, str], Record]:
    """For every cell's number and form: time, size, and quality where it may have changed."""
    turns: dict[str, nn.Module] = {}
    rows: dict[tuple[int, str], Record] = {}
    for number, cell in enumerate(cells):
        place = folder / str(number)
        place.mkdir()
        model = bench.model(cell)
        cost = profile(model, bench.dense.example)
        for form, (one, row) in _forms(model, bench.dense.example, place).items():
            rows[number, form] = {"params": cost.params, "macs": cost.macs, "seconds": 0.0, **row}
            if one is not None:
                turns[f"{number} {form}"] = one
        for form in ("as it is", "int8"):
            one = turns.get(f"{number} {form}")
            if one is not None:
                found = evaluate(one, bench.test, sample_rate=bench.corpus.sample_rate)
                rows[number, form]["si_sdri"] = round(found.si_sdri, 3)
                rows[number, form]["sdri"] = round(found.sdri, 3)
    rate = bench.corpus.sample_rate
    compared = compare_latency(turns, 1.0, rate, runs=int(experiment.options["runs"]))
    for number, form in rows:
        latency = compared.latencies.get(key := f"{number} {form}")
        if latency is not None:
            rows[number, form] |= {
                "latency_ms": round(latency.median_ms, 3),
                "iqr_ms": round(latency.iqr, 3),
                "rtf": round(latency.rtf, 5),
                "ratio": round(compared.ratios[key], 4),
            }
    return rows


def _forms(
    model: nn.Module, example: Tensor, folder: Path
) -> dict[str, tuple[nn.Module | None, Record]]:
    """What can be run, by name, with the bytes of its file; None where it cannot be made, and why.

    The forms of `optimize_for_inference` have no file of their own.
    """
    path = save_pruned(model, folder / "model.safetensors")
    found: dict[str, tuple[nn.Module | None, Record]] = {
        "as it is": (model, {"bytes": path.stat().st_size}),
        "optimised": (optimize_for_inference(model, example), {}),
        "recorded": (optimize_for_inference(model, example, record=True), {}),
    }
    try:
        small = quantise(model, example)
    except InputError as error:
        found["int8"] = (None, {"refused": str(error)})
    else:
        written = export_model(model, example, folder / "int8.pt", int8=True)
        size = written.path.stat().st_size
        found["int8"] = (small, {"bytes": size, "agreement_db": small.quantisation.agreement})
    for form, name in FILES.items():
        try:
            written = export_model(model, example, folder / name)
        except CheckpointError as error:
            found[form] = (None, {"refused": str(error)})
            continue
        row = {"bytes": written.path.stat().st_size, "difference": written.difference}
        found[form] = (Running(read_exported(written.path)), row)
    return found


def _section(experiment: Experiment) -> list[str]:
    lines: list[str] = []
    items = Records(records_of(experiment), KEYS).items
    for name in experiment.models:
        mine = [record for record in items if record["model"] == name]
        if not mine:
            continue
        mine.sort(key=lambda record: (-record["budget"], _place(record["form"])))
        heads = ["MACs", "form", "file (MB)", "ms for 1 s", "time", "SI-SDRi"]
        rows = [_row(record) for record in mine]
        lines += [f"### {name}", "", *table(heads, rows, text=(1,)), ""]
    return [*lines, origin(items), ""] if lines else []


def _place(form: str) -> int:
    order = ("as it is", "optimised", "recorded", "int8", *FILES)
    return order.index(form)


def _row(record: Record) -> list[str]:
    share = "dense" if record["stage"] == "dense" else f"{record['budget']:.0%}"
    if "refused" in record:
        return [share, record["form"], "", "refused", "", ""]
    size = f"{record['bytes'] / 1e6:.2f}" if "bytes" in record else ""
    quality = f"{record['si_sdri']:.2f}" if "si_sdri" in record else ""
    cells = [share, record["form"], size, f"{record['latency_ms']:.1f}", f"{record['ratio']:.2f}"]
    return [*cells, quality]


KIND = Kind(
    _run, lambda experiment: f"{len(Records(records_of(experiment), KEYS).items)} forms", _section
)
