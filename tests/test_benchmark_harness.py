"""The benchmarks' harness: strict configurations, records that outlive kills, cells that resume."""

from __future__ import annotations

import inspect
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("asteroid", reason="the benchmarks need the extra 'asteroid'")
pytest.importorskip("lightning", reason="the benchmarks need the extra 'train'")
pytest.importorskip("benchmarks.harness", reason="benchmarks/ is not installed")

from benches import tiny_bench, write_recordings
from pages import ROOT

from benchmarks.criteria import CRITERIA, UnreachableError, criterion
from benchmarks.harness import zoo
from benchmarks.harness.bench import FIT_SAMPLES, Bench, decoded, encoded
from benchmarks.harness.cells import Cell
from benchmarks.harness.config import FIRST, LOSSES, Choice, ConfigError, find, names, read
from benchmarks.harness.data import open_corpus
from benchmarks.harness.estimate import expected_seconds
from benchmarks.harness.records import Records
from benchmarks.harness.running import run_cells
from benchmarks.kinds import KINDS, grid
from benchmarks.pages import plots
from sepprune_tp.profile import profile
from sepprune_tp.recovery import fingerprint, lockstep, reconstruct

CONTRACT = {
    "experiment", "model", "data", "criterion", "budget", "seed", "stage", "si_sdri", "sdri",
    "params", "macs", "seconds", "machine", "versions", "date",
}  # fmt: skip


# -- configurations ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_experiment_says_what_there_is(name: str) -> None:
    experiment = find(name)
    assert experiment.name == name and experiment.kind in KINDS and experiment.title
    assert set(experiment.models) <= set(zoo.MODELS)
    for choice in experiment.criteria:
        criterion(choice.name, choice.options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: quality\ntitle: t\nbudget: [0.5]", "no 'budget'"),
        ("kind: quality\ntitle: t\nrecoveries: {a: {step: 5}}", "no 'step'"),
        ("kind: quality\ntitle: t\nrecoveries: {a: {loss: mse}}", "'mse' is not one of"),
        ("kind: quality\ntitle: t\nrecoveries: {a: {fresh: true, first: all}}", "refitted"),
        ("kind: quality\ntitle: t\ncriteria: [a, a]", "same label"),
        ("kind: quality\ntitle: t\ncriteria: [{name: a, recoveries: [b]}]", "no recovery 'b'"),
        ("kind: quality\ntitle: t\ncriteria: [{name: a, seeds: [7]}]", "among the experiment's"),
        ("kind: quality\ntitle: t\nbudgets: [50]", "shares"),
        ("- a", "must hold a mapping"),
        ("a: [", "cannot be read"),
        ("title: t", "kind"),
    ],
)
def test_wrong_configurations_are_refused_by_file_and_key(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        read(path)
    assert said in str(caught.value)


def test_an_unknown_experiment_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="quality"):
        find("qualities")


def test_a_stored_corpus_without_a_place_says_how_to_give_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LRS2_2MIX_DATA", raising=False)
    with pytest.raises(ConfigError, match="LRS2_2MIX_DATA"):
        open_corpus({"name": "lrs2-2mix", "sample_rate": 16000})


# -- records -------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(min_size=1), st.lists(st.booleans(), min_size=1, max_size=70)))
@settings(max_examples=100, deadline=None)
def test_masks_survive_their_record(bits: dict[str, list[bool]]) -> None:
    masks = {name: torch.tensor(values) for name, values in bits.items()}
    back = decoded(json.loads(json.dumps(encoded(masks))))
    assert masks.keys() == back.keys()
    assert all(torch.equal(masks[name], back[name]) for name in masks)


def _write(path: Path, process: int) -> None:
    for number in range(20):
        Records(path).replace({"experiment": "e", "seed": number, "model": str(process)})


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(Records(path).items) == 60
    assert not list(tmp_path.glob("*.tmp"))


def test_the_same_key_replaces_and_order_does_not_depend_on_when(tmp_path: Path) -> None:
    first, second = Records(tmp_path / "a.json"), Records(tmp_path / "b.json")
    one, other = {"experiment": "e", "seed": 0, "x": 1}, {"experiment": "e", "seed": 1, "x": 2}
    first.replace(one)
    first.replace(other)
    second.replace(other)
    second.replace({**one, "x": 0})
    second.replace(one)
    assert first.path.read_bytes() == second.path.read_bytes()


# -- cells ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def bench(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return tiny_bench(data, tmp_path, monkeypatch)


def test_a_run_measures_each_cell_once_and_goes_on_after_a_kill(bench: Bench) -> None:
    cells = list(bench.cells())
    assert len(cells) == 1 + 4 + 2
    for cell in cells[:3]:  # what a killed run left
        bench.run(cell)
    said: list[str] = []
    assert run_cells(bench, said.append) == 0
    assert len(said) == len(cells) - 3
    before = bench.records.path.read_bytes()
    assert run_cells(bench, said.append) == 0
    assert bench.records.path.read_bytes() == before
    for record in bench.records.items:
        assert record.keys() >= CONTRACT
        assert record["stage"] == "dense" or record["budget"] == 1 or record["macs_share"] <= 0.6


def test_criteria_and_recoveries_may_ask_for_some_budgets_and_seeds_only(bench: Bench) -> None:
    ours = replace(bench.experiment.criteria[0], budgets=(0.6,))
    joint = replace(bench.experiment.criteria[1], seeds=(1,))
    ways = dict(bench.experiment.recoveries)
    ways["scratch"] = replace(ways["scratch"], seeds=(0,))
    before = {cell.recovery.name: bench._identity(cell) for cell in bench.cells()}
    bench.experiment = replace(
        bench.experiment,
        budgets=(0.8, 0.6),
        seeds=(0, 1),
        criteria=(ours, joint),
        recoveries=ways,
    )
    cells = [(c.choice.label, c.budget, c.seed, c.recovery.name) for c in bench.cells()][1:]
    assert {(label, budget) for label, budget, _, _ in cells} == {
        ("ours", 0.6),
        ("joint", 0.8),
        ("joint", 0.6),
    }
    assert {seed for label, _, seed, _ in cells if label == "joint"} == {1}
    assert [seed for _, _, seed, way in cells if way == "scratch"] == [0]
    after = {c.recovery.name: bench._identity(c) for c in bench.cells() if not c.seed}
    assert after["scratch"] == before["scratch"]  # what is measured is still the same figure


def test_what_another_process_is_at_is_left_alone(bench: Bench) -> None:
    from benchmarks.harness.running import _claimed

    cells = list(bench.cells())
    with _claimed(bench, cells[2]) as mine:
        assert mine
        claimed = sum(cell.choice.label == "ours" for cell in cells)
        assert run_cells(bench, lambda _: None) == claimed
    assert run_cells(bench, lambda _: None) == 0


def test_models_come_back_from_their_records(bench: Bench) -> None:
    for cell in bench.cells():
        record = bench.run(cell)
        again = bench.model(cell)
        cost = profile(again, bench.dense.example)
        assert (cost.params, cost.macs) == (record["params"], record["macs"])
    cell = next(c for c in bench.cells() if c.stage == "recovered" and c.choice.label == "ours")
    bench._path(cell).unlink()
    with pytest.raises(FileNotFoundError, match="run it again"):
        bench.model(cell)


def test_scratch_begins_elsewhere_and_joint_training_moves_the_weights(bench: Bench) -> None:
    cells = {(c.choice.label, c.recovery.name): c for c in bench.cells()}
    for key in (("ours", "scratch"), ("joint", "pruned"), ("ours", "pruned")):
        bench.run(cells[key])
    dense = fingerprint(bench.dense.model)
    kept = dict(bench.dense.model.named_parameters())

    def shares(cell: Cell) -> bool:
        """Whether some weight of the cell's model is one of the dense model's."""
        found = torch.cat([p.flatten() for p in bench.model(cell).parameters() if p.numel() > 20])
        whole = torch.cat([p.flatten() for p in kept.values()])
        return bool(torch.isin(found, whole).float().mean() > 0.9)

    assert shares(cells["ours", "pruned"])
    assert not shares(cells["ours", "scratch"]) and not shares(cells["joint", "pruned"])
    assert fingerprint(bench.dense.model) == dense


def test_every_way_to_recover_gives_another_model(bench: Bench) -> None:
    cell = next(c for c in bench.cells() if (c.choice.label, c.stage) == ("ours", "recovered"))
    ways = [replace(cell.recovery, first=first, loss="task", steps=0) for first in FIRST]
    ways += [replace(cell.recovery, loss=loss) for loss in LOSSES]
    found = set()
    for way in ways:
        one = replace(cell, recovery=replace(way, name=f"{way.first}, {way.loss}, {way.steps}"))
        bench.run(one)
        found.add(fingerprint(bench.model(one)))
    assert len(found) == len(ways)


@pytest.mark.parametrize("changed", ["options", "recovery", "test"])
def test_a_figure_is_measured_again_when_what_it_follows_from_changes(
    bench: Bench, changed: str
) -> None:
    cell = next(c for c in bench.cells() if c.choice.label == "ours")
    bench.run(cell)
    assert bench.found(cell)
    if changed == "options":
        cell = replace(cell, choice=replace(cell.choice, options={"steps": 5}))
    elif changed == "recovery":
        cell = replace(cell, recovery=replace(cell.recovery, first="norms"))
    else:
        bench.experiment = replace(bench.experiment, test={"mixtures": 2, "seconds": 0.5})
    assert not bench.found(cell)


def test_a_choice_is_taken_over_from_another_experiment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = next(c for c in bench.cells() if c.choice.label == "ours")
    masks = bench.run(cell)["masks"]
    other = replace(bench.experiment, name="other")
    records = Records(bench.records.path.with_name("other.json"))
    second = Bench(other, bench.dense, bench.corpus, records, bench.work)

    def fail(*_: Any) -> None:
        raise AssertionError("chosen again")

    monkeypatch.setattr("benchmarks.harness.bench.criterion", fail)
    assert second.run(cell)["masks"] == masks
    with pytest.raises(AssertionError, match="chosen again"):  # the control: another budget
        second.run(replace(cell, budget=0.7))


def test_what_is_out_of_reach_is_recorded_and_not_tried_again(bench: Bench) -> None:
    choice = Choice("scale", "NormScale")
    bench.experiment = replace(bench.experiment, criteria=(choice,), budgets=(0.01,))
    cells = [cell for cell in bench.cells() if cell.stage != "dense"]
    said: list[str] = []
    assert run_cells(bench, said.append) == 0
    assert said[1].startswith("tiny scale 1% seed 0 pruned: ")
    records = [bench.found(cell) for cell in cells]
    assert len(said) == 1 + len(cells) and all(record is not None for record in records)
    for record in filter(None, records):
        assert record["stage"] == "unreachable" and record["reason"] in said[1]
        assert "si_sdri" not in record
    run_cells(bench, said.append)
    assert len(said) == 1 + len(cells)
    with pytest.raises(UnreachableError):
        bench.model(cells[0])


def test_a_section_holds_what_its_configuration_asks_for(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "records_of", lambda experiment: bench.records.path)
    monkeypatch.setattr(plots, "FOLDER", tmp_path)
    reached, not_reached = Choice("random", "RandomImportance"), Choice("scale", "NormScale")
    another = replace(not_reached, label="again", budgets=(0.01,))
    ways = {"pruned": bench.experiment.recoveries["pruned"]}
    choices = (reached, another, replace(not_reached, budgets=(0.01,)))
    bench.experiment = replace(
        bench.experiment, criteria=choices, budgets=(0.6, 0.01), recoveries=ways
    )
    run_cells(bench, lambda _: None)
    keys = ("criterion", "budget", "stage")
    shown = {tuple(record[key] for key in keys) for record in grid.current(bench.experiment)}
    dense = ("none", 1.0, "dense")
    assert shown >= {dense, ("random", 0.6, "pruned")}
    assert not any(stage == "unreachable" for _, _, stage in shown)
    lines = grid.kind("quality").section(bench.experiment)
    told = [line for line in lines if line.startswith("Out of reach: ")]
    assert len(told) == 1 and "again, scale of tiny, 1% of the MACs: " in told[0]
    changed = replace(reached, options={"within": "local"})  # its records are of another one now
    experiment = replace(bench.experiment, criteria=(changed,))
    assert [record["stage"] for record in grid.current(experiment)] == ["dense"]


def test_what_is_to_come_is_expected_to_take_as_long_as_its_like(bench: Bench) -> None:
    ours, joint = bench.experiment.criteria
    trained = bench.experiment.recoveries["recovered"]
    cell = Cell(ours, 0.6, 0, trained)
    took = {"model": "tiny", "criterion": "ours", "recovery": "recovered", "seconds": 10.0}
    other = {**took, "model": "large", "seconds": 90.0}
    records = [took, {**took, "seconds": 20.0}, other, {"stage": "unreachable", **cell.key}]
    assert expected_seconds([cell, cell], "tiny", records) == 30
    assert expected_seconds([cell], "unknown", records) == 40  # of the criterion on any model
    assert expected_seconds([Cell(joint, 0.6, 0, trained)], "large", records) == 90
    assert expected_seconds([cell], "tiny", []) == 0


def test_every_criterion_has_a_name_in_an_experiment() -> None:
    used = {choice.name for name in names() for choice in find(name).criteria}
    assert set(CRITERIA) <= used


def test_frames_of_least_squares_are_those_in_the_prose() -> None:
    default = inspect.signature(reconstruct).parameters["samples"].default
    assert f"up to {default:,} frames" in (ROOT / "docs" / "recovery.md").read_text()
    limits = (ROOT / "benchmarks" / "LIMITS.md").read_text()
    assert f"{FIT_SAMPLES:,} frames" in limits and "four times as many" in limits
    assert default == 4 * FIT_SAMPLES
    assert lockstep._HELD == 1 << 30, "docs/recovery.md says: a gigabyte"
