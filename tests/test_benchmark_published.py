"""The paper's cells at their own size: every configuration runs, on a few steps of noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("lightning", reason="the benchmarks need the extra 'train'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")

import data_trees

from benchmarks.harness import zoo
from benchmarks.harness.bench import Bench
from benchmarks.harness.config import Experiment, find, names
from benchmarks.harness.data import Corpus, open_corpus, variable
from benchmarks.harness.dense import load, save, train, weights_of
from benchmarks.harness.records import Records
from benchmarks.pages import published

CELLS = [n for n in names() if n.startswith("paper/") and not n.endswith("dense")]
QUICK = ("paper/lrs2-2mix-afrcnn-12", "paper/libri2mix-tdanet", "paper/echoset-sudormrf")
SMALL = {
    "afrcnn-12": {"basis": 16, "bottleneck": 32, "hidden": 32, "iterations": 3},
    "tdanet": {"bottleneck": 16, "hidden": 16, "iterations": 2, "heads": 2},
    "sudormrf": {"basis": 16, "bottleneck": 16, "hidden": 48, "blocks": 4},
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Noise at 16 kHz as Look2Hear and LibriMix list it."""
    root = tmp_path / "tree"
    for split in ("tr", "cv", "tt"):
        files: dict[str, list[Path]] = {}
        for index, (mixture, sources) in enumerate(data_trees.mixtures(3, seconds=2.4)):
            parts = {"mix": mixture, "s1": sources[0], "s2": sources[1]}
            for part, signal in parts.items():
                path = root / "audio" / split / part / f"{index}.wav"
                files.setdefault(part, []).append(data_trees.write_wav(path, signal, 16000))
        data_trees.write_lists(root / split, files)
    return root


def tried(experiment: Experiment) -> Experiment:
    """The same with hardly any steps."""
    recoveries = {
        name: replace(one, steps=min(one.steps, 1), batch_size=1, val_every=1, seconds=0.5)
        for name, one in experiment.recoveries.items()
    }
    choice = replace(experiment.criteria[0], options={"steps": 2})
    test = {"mixtures": 1, "seconds": 0.5}
    return replace(experiment, criteria=(choice,), recoveries=recoveries, test=test)


def run(experiment: Experiment, corpus: Corpus, folder: Path) -> list[str]:
    """Run all cells of a dense model of random weights; the rows of the table."""
    name = experiment.models[0]
    weights = weights_of(name, corpus.name, folder)
    save(zoo.build(name), weights, {"model": name, "sample_rate": 16000})
    records = Records(folder / "results" / "records.json")
    bench = Bench(experiment, load(name, corpus.name, folder), corpus, records, folder / "work")
    for cell in bench.cells():
        record = bench.run(cell)
        assert cell.stage == "dense" or record["macs_share"] <= experiment.budgets[0]
    return published.section(experiment, records.items)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS],
)
def test_a_cell_runs_at_reduced_width(
    name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tried(find(name))
    model = experiment.models[0]
    monkeypatch.setitem(zoo.MODELS, model, (model, SMALL[model]))
    monkeypatch.setenv(variable(str(experiment.data["name"])), str(tree))
    corpus = open_corpus(experiment.data)
    rows = run(experiment, corpus, tmp_path)
    assert len(rows) == 4 and not any("|  |" in row for row in rows[2:])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CELLS if "libri2mix" in n])
def test_a_cell_runs_at_its_own_size(name: str, tree: Path, tmp_path: Path) -> None:
    experiment = tried(find(name))
    corpus = open_corpus({**experiment.data, "path": str(tree)})
    rows = run(experiment, corpus, tmp_path)
    told = experiment.options["published"]["dense"]
    cells = [cell.strip() for cell in rows[2].split("|")]
    assert float(cells[8]) == pytest.approx(told["params"], abs=0.01)
    assert float(cells[9]) == pytest.approx(told["macs"], rel=0.1)


def test_its_dense_models_train(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(zoo.MODELS, "tdanet", ("tdanet", SMALL["tdanet"]))
    experiment = find("paper/echoset-dense")
    options = {**experiment.options, "steps": 2, "batch_size": 1, "val_every": 1, "seconds": 0.5}
    experiment = replace(
        experiment, options={**options, "progress": False}, test={"mixtures": 1, "seconds": 0.5}
    )
    corpus = open_corpus({**experiment.data, "path": str(tree)})
    found = train("tdanet", corpus, experiment, tmp_path / "work", tmp_path / "checkpoints")
    assert found["steps"] == 2
    again = load("tdanet", "echoset", tmp_path / "checkpoints")
    assert again.example.shape == (1, 16000)
    with torch.no_grad():
        assert again.model(again.example).shape == (1, 2, 16000)
