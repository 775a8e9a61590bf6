"""Something to hear: separated WAVs and spectrograms, and PESQ and STOI beside SI-SDRi."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.bench import Bench
from benchmarks.harness.cells import Cell
from benchmarks.harness.config import Experiment, find
from benchmarks.harness.dense import fast_global_norm
from benchmarks.harness.records import Record, Records, environment, origin
from benchmarks.harness.running import benches, records_of
from benchmarks.pages.markdown import table
from benchmarks.pages.spectrograms import spectrogram_plot
from sepprune_tp.errors import require
from sepprune_tp.evaluate import evaluate
from sepprune_tp.files import written
from sepprune_tp.losses import pit_si_sdr
from sepprune_tp.profile import profile

from .base import Kind, Only, wants
from .named import key_of, named_cells

__all__ = ["KIND"]

LEVEL = 0.9  # peak of a written WAV file
HEARD = Path(__file__).resolve().parents[2] / "runs" / "audible"


def _run(experiment: Experiment, only: Only, say: Callable[[str], None]) -> None:
    source = find(experiment.options["of"])
    records = Records(records_of(experiment))
    for bench in benches(source, only.get("model") or ()):
        for cell in named_cells(experiment, source):
            if bench.dense.name not in experiment.models or not wants(only, "seed", cell.seed):
                continue
            key = key_of(experiment, bench, cell)
            origin = bench.run(cell)
            if records.find(**key, origin=origin["identity"]):
                continue
            record = {**key, "origin": origin["identity"], **_measure(experiment, bench, cell)}
            records.replace({**record, **environment()})
            say(f"{bench.dense.name} {cell.choice.label} {cell.budget:.0%} {cell.recovery.name}")
        for index in range(int(experiment.options["written"])):
            _drawn(f"{bench.dense.name}_{index}", named_cells(experiment, source), HEARD)


def _measure(experiment: Experiment, bench: Bench, cell: Cell) -> Record:
    model = bench.model(cell)
    rate = bench.corpus.sample_rate
    test = bench.corpus.test(experiment.test["mixtures"], experiment.test["seconds"])
    with fast_global_norm():
        found = evaluate(model, test, sample_rate=rate)
        heard = [_heard(model, *test[index]) for index in range(len(test))]
    cost = profile(model, bench.dense.example)
    pesq, stoi = zip(*(_perceived(*one, rate) for one in heard), strict=True)
    files = {}
    for index in range(int(experiment.options["written"])):
        files |= _written(f"{bench.dense.name}_{index}", _slug(cell), *heard[index], rate, HEARD)
    return {
        "si_sdri": round(found.si_sdri, 3),
        "sdri": round(found.sdri, 3),
        "pesq": round(statistics.fmean(pesq), 3),
        "stoi": round(statistics.fmean(stoi), 4),
        "params": cost.params,
        "macs": cost.macs,
        "seconds": 0.0,
        "mixtures": len(test),
        "files": files,
    }


def _heard(model: Any, mixture: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture (T,), sources (S, T), and estimates (S, T) in the order of the sources."""
    with torch.no_grad():
        estimates = model(mixture[None])
    order = pit_si_sdr(estimates, sources[None])[1][0]
    return mixture, sources, estimates[0][order]


def _perceived(
    mixture: Tensor, sources: Tensor, estimates: Tensor, rate: int
) -> tuple[float, float]:
    """PESQ (narrow band below 16 kHz) and STOI, mean over the sources."""
    pesq = require("pesq", "benchmark", "PESQ").pesq
    stoi = require("pystoi", "benchmark", "STOI").stoi
    band = "wb" if rate >= 16000 else "nb"
    pairs = [
        (s.double().numpy(), e.double().numpy()) for s, e in zip(sources, estimates, strict=True)
    ]
    quality = statistics.fmean(pesq(rate, clean, heard, band) for clean, heard in pairs)
    return quality, statistics.fmean(float(stoi(clean, heard, rate)) for clean, heard in pairs)


def _written(
    stem: str,
    slug: str,
    mixture: Tensor,
    sources: Tensor,
    estimates: Tensor,
    rate: int,
    folder: Path,
) -> dict[str, str]:
    """Write the WAV files of one mixture and of what a model makes of it; their SHA-256."""
    soundfile = require("soundfile", "train", "Writing WAV files")
    folder.mkdir(parents=True, exist_ok=True)
    signals = {"mixture": mixture}
    signals |= {f"source{n + 1}": signal for n, signal in enumerate(sources)}
    signals |= {f"{slug}_estimate{n + 1}": signal for n, signal in enumerate(estimates)}
    digests = {}
    for part, signal in signals.items():
        samples = signal.numpy()
        samples = (samples * LEVEL / max(1e-9, float(np.abs(samples).max()))).astype(np.float32)
        path = folder / f"{stem}_{part}.wav"
        with written(path) as scratch:
            soundfile.write(scratch, samples, rate, subtype="PCM_16", format="WAV")
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def _drawn(stem: str, cells: Sequence[Cell], folder: Path) -> None:
    """Plot one mixture and what every model makes of it, if all WAV files are there."""
    soundfile = require("soundfile", "train", "Reading WAV files")
    parts = {"mixture": "mixture", "sources": "source"}
    parts |= {_told(cell): f"{_slug(cell)}_estimate" for cell in cells}
    found = {told: sorted(folder.glob(f"{stem}_{part}*.wav")) for told, part in parts.items()}
    if all(found.values()):
        heard = {told: [soundfile.read(path) for path in paths] for told, paths in found.items()}
        rate = heard["mixture"][0][1]
        spectrogram_plot(stem, {told: [x for x, _ in one] for told, one in heard.items()}, rate)


def _told(cell: Cell) -> str:
    if cell.stage == "dense":
        return "dense"
    return f"{cell.choice.label}, {cell.budget:.0%}, {cell.recovery.name}"


def _slug(cell: Cell) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", _told(cell))


def _section(experiment: Experiment) -> list[str]:
    order = [
        (model, cell.choice.label, cell.budget, cell.recovery.name)
        for model in experiment.models
        for cell in named_cells(experiment, find(experiment.options["of"]))
    ]
    measured = {
        (r["model"], r["criterion"], r["budget"], r["recovery"]): r
        for r in Records(records_of(experiment)).items
    }
    items = [measured[key] for key in order if key in measured]
    rows = [
        [
            r["model"],
            r["criterion"] if r["stage"] != "dense" else "dense",
            f"{r['budget']:.0%}",
            r["recovery"] if r["stage"] != "dense" else "",
            f"{r['si_sdri']:.2f}",
            f"{r['sdri']:.2f}",
            f"{r['pesq']:.2f}",
            f"{r['stoi']:.3f}",
            str(r["mixtures"]),
        ]
        for r in items
    ]
    if not rows:
        return []
    heads = ["model", "criterion", "MACs", "recovery", "SI-SDRi", "SDRi", "PESQ", "STOI"]
    plots = [
        f"![spectrograms of {name}](plots/{path.name})"
        for path in sorted((Path(__file__).resolve().parents[1] / "plots").glob("heard_*.png"))
        for name in [path.stem.removeprefix("heard_")]
    ]
    return [*table([*heads, "mixtures"], rows, text=(0, 1, 3)), "", *plots, "", origin(items)]


KIND = Kind(
    _run, lambda experiment: f"{len(Records(records_of(experiment)).items)} cells", _section
)
