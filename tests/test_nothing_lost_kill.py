"""A run that is killed or interrupted and started again ends with the same channels and weights."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("lightning")
soundfile = pytest.importorskip("soundfile")
models = pytest.importorskip("asteroid.models")

from lost_runs import Point, Run  # noqa: E402

from sepprune_tp import history, load_pruned, save_pruned  # noqa: E402
from sepprune_tp.checkpoint import read_header  # noqa: E402
from sepprune_tp.cli import main  # noqa: E402
from sepprune_tp.files.locking import lock_of  # noqa: E402

RATE = 8000
SEARCH = ("--steps", 60, "--batch-size", 2, "--seconds", 0.25, "--curve-mixtures", 2)
RECOVERY = ("--steps", 11, "--val-every", 4, "--batch-size", 2, "--seconds", 0.25)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model and twelve mixtures, and what uninterrupted runs make of them."""
    root = tmp_path_factory.mktemp("place")
    _model(root / "dense.safetensors", 0)
    _mixtures(root / "data", 12)
    (root / "whole").mkdir()
    pruned, recovered = root / "whole" / "pruned.safetensors", root / "whole" / "tuned.safetensors"
    _run(root, "prune", root / "dense.safetensors", pruned, SEARCH)
    _run(root, "finetune", pruned, recovered, RECOVERY)
    return root


def _model(path: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"n_filters": 16, "bn_chan": 8, "hid_chan": 16, "skip_chan": 8}
        save_pruned(models.ConvTasNet(n_src=2, n_blocks=2, n_repeats=1, **sizes), path)


def _mixtures(folder: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        sources = 0.05 * torch.randn(2, RATE, generator=generator)
        parts = {"mix": sources.sum(0), "s1": sources[0], "s2": sources[1]}
        for name, samples in parts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{index}.wav", samples.numpy(), RATE)


def _words(root: Path, command: str, model: Path, out: Path, options: Sequence[Any]) -> list[str]:
    data = () if "--data" in options else ("--data", root / "data")
    return [str(w) for w in (command, model, *data, "-o", out, *options, "--device", "cpu")]


def _killed(
    root: Path, command: str, model: Path, out: Path, options: Sequence[Any], at: Point
) -> Run:
    """A process that was killed; what it printed is read and gone."""
    run = Run(_words(root, command, model, out, options), out.with_suffix(".log"), at)
    assert run.wait() == -9, run.said()
    return run


def _run(root: Path, command: str, model: Path, out: Path, options: Sequence[Any]) -> str:
    """Let a command end, here; what it printed, or its error."""
    with out.with_suffix(".log").open("w+") as log:
        with redirect_stdout(log), redirect_stderr(log):
            status = main(_words(root, command, model, out, options))
        log.seek(0)
        said = log.read()
    assert status == (2 if "Error: " in said else 0), said
    return said


def same(one: Path, two: Path) -> bool:
    """Whether two files hold the same model, bit for bit."""
    first, second = (load_pruned(path).state_dict() for path in (one, two))
    alike = first.keys() == second.keys()
    return alike and all(torch.equal(first[name], second[name]) for name in first)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".log")


def test_prune_killed_everywhere(place: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "pruned.safetensors", place / "dense.safetensors"
    state = tmp_path / ".pruned.safetensors.search"
    points: list[Point] = [
        ("sepprune_tp.search.steps:Search._use", 57),  # in the search: 50 steps are kept
        ("sepprune_tp.search.keeping:Keeper._settled", 1),  # all steps done, no masks yet
        ("sepprune_tp.recovery.reconstruction:reconstruct", 1),  # cut, not yet refitted
        (
            "sepprune_tp.files.writing:_to_disk",
            1,
        ),  # the model is half there, by another name
        ("sepprune_tp.commands.pruned:write_json", 1),  # of three reports two are there
    ]
    for number, point in enumerate(points):
        run = _killed(place, "prune", model, out, SEARCH, point)
        assert state.exists() and out.exists() == (number > 3), point
        if number == 3:
            assert [name for name in files(tmp_path) if name.endswith(".tmp")]
        assert ("Going on from" in run.said()) == (number > 0)
    assert "Going on from" in _run(place, "prune", model, out, SEARCH)
    whole = place / "whole" / "pruned.safetensors"
    assert same(out, whole)
    assert history(out).kept == history(whole).kept
    assert read_header(out).metadata["groups"] == read_header(whole).metadata["groups"]
    report = [f"pruned-report.{ending}" for ending in ("html", "json", "md")]
    assert files(tmp_path) == sorted([*report, "pruned.safetensors"]), "nothing else is left"
    one, two = (json.loads((p.parent / "pruned-report.json").read_text()) for p in (out, whole))
    assert one["history"] == two["history"] and one["groups"] == two["groups"]
    few = tmp_path / "few.safetensors"
    _run(place, "prune", model, few, ("--steps", 2, *SEARCH[2:], "--no-report"))
    assert not same(few, whole), "another search finds another model"


def test_finetune_killed_everywhere(place: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "tuned.safetensors", place / "whole" / "pruned.safetensors"
    points: list[Point] = [
        ("sepprune_tp.recovery.loop:RecoveryModule.training_step", 7),
        ("sepprune_tp.recovery.loop:RecoveryModule.validation_step", 1),  # at step 8
        ("sepprune_tp.recovery.state:write_tensors", 4),  # last.pt and best.pt do not agree
        ("sepprune_tp.checkpoint:save_pruned", 1),
    ]
    for number, point in enumerate(points):
        run = _killed(place, "finetune", model, out, RECOVERY, point)
        assert files(tmp_path / ".tuned.safetensors.recovery"), point
        assert ("Going on from" in run.said()) == (number > 0)
    assert "Going on from" in _run(place, "finetune", model, out, RECOVERY)
    given = tmp_path / "given"
    given.mkdir()
    one = (*RECOVERY, "--steps", 1, "--checkpoint-dir", given)
    assert "Going on" not in _run(place, "finetune", model, tmp_path / "one", one)
    assert files(given) == ["best.pt", "last.pt"], "a state with a place of its own stays"
    (tmp_path / "one").unlink()
    for path in (*given.iterdir(), given):
        path.rmdir() if path.is_dir() else path.unlink()
    whole = place / "whole" / "tuned.safetensors"
    assert same(out, whole) and not same(out, model)
    assert files(tmp_path) == ["tuned.safetensors"]
    one, two = (read_header(path).metadata["recovery"] for path in (out, whole))
    assert one["si_sdr"] == two["si_sdr"]
    assert [event.what for event in history(out).events][-1] == "recovered"


def test_states_of_other_runs_are_refused(place: Path, tmp_path: Path) -> None:
    model, out = place / "dense.safetensors", tmp_path / "pruned.safetensors"
    _model(tmp_path / "other.safetensors", 1)
    _mixtures(tmp_path / "data", 11)
    killed: Point = ("sepprune_tp.search.steps:Search._use", 52)
    _killed(place, "prune", model, out, SEARCH, killed)
    before = (tmp_path / ".pruned.safetensors.search").read_bytes()
    others = {
        "'lr'": (model, ("--lr", 0.2)),
        "'budget'": (model, ("--budget-macs", 0.6)),
        "'model'": (tmp_path / "other.safetensors", ()),
        "'data'": (model, ("--data", tmp_path / "data")),
    }
    for named, (given, options) in others.items():
        said = _run(place, "prune", given, out, (*SEARCH, *options))
        assert "belongs to another search" in said and "--restart" in said and named in said
    assert (tmp_path / ".pruned.safetensors.search").read_bytes() == before
    assert "Going on" not in _run(place, "prune", model, out, (*SEARCH, "--restart", "--no-report"))
    assert same(out, place / "whole" / "pruned.safetensors")


STEP = "sepprune_tp.search.steps:Search._use"
TRAINED = "sepprune_tp.recovery.loop:RecoveryModule.training_step"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_prune_and_finetune(place: Path, tmp_path: Path, number: int, status: int) -> None:
    whole = place / "whole"
    jobs = [
        ("prune", place / "dense.safetensors", SEARCH, STEP, 33, "step 33 of 60"),
        ("finetune", whole / "pruned.safetensors", RECOVERY, TRAINED, 6, "step 6 of 11"),
    ]
    chosen = jobs[:1] if number == signal.SIGINT else jobs[1:]
    for command, model, options, point, call, text in chosen:
        name = {"prune": "pruned", "finetune": "tuned"}[command]
        out = tmp_path / f"{name}.safetensors"
        words = _words(place, command, model, out, options)
        run = Run(words, tmp_path / "log", (point, call), [number])
        assert run.wait() == status, run.said()
        last = run.said().strip().splitlines()[-1]
        assert last.startswith("Interrupted: ") and text in last and "Traceback" not in run.said()
        assert f"To go on: sepprune {command} " in last and str(out) in last
        assert not out.exists()
        assert "Going on from" in _run(place, command, model, out, options)
        assert same(out, whole / out.name)
    left = [n for n in files(tmp_path) if n != "log" and "report" not in n]
    assert left == [{"prune": "pruned", "finetune": "tuned"}[chosen[0][0]] + ".safetensors"]


def test_twice_ends_at_once(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned.safetensors"
    words = _words(place, "prune", place / "dense.safetensors", out, SEARCH)
    run = Run(words, tmp_path / "log", (STEP, 55), [signal.SIGINT, signal.SIGINT])
    assert run.wait() == 130
    assert "what was done is in" in run.said() and "To go on: sepprune prune" in run.said()
    state = torch.load(tmp_path / ".pruned.safetensors.search", weights_only=True)
    assert state["step"] == 50, "the step was not ended"


def test_second_run_and_ctrl_c_from_outside(place: Path, tmp_path: Path) -> None:
    """The second is told who works there; the first is interrupted like by a terminal."""
    out = tmp_path / "pruned.safetensors"
    model, options = place / "dense.safetensors", ("--steps", 4000, *SEARCH[2:])
    words = _words(place, "prune", model, out, options)
    first = Run(words, tmp_path / "log")
    first.wait_for(tmp_path / ".pruned.safetensors.search")
    said = _run(place, "prune", model, out, options)
    assert f"process {first.process.pid} works on {out} since 2" in said
    state = tmp_path / ".pruned.safetensors.search"
    said = _run(place, "prune", model, tmp_path / "b", (*options, "--checkpoint", state))
    assert f"process {first.process.pid} works on {state}" in said
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGINT)
    assert first.wait() == 130
    assert "of 4000 of the search is in" in first.said()
    assert not lock_of(out).exists() and not lock_of(state).exists()
    kept = torch.load(state, weights_only=True)
    assert kept["step"] == len(kept["history"]) > 0


@pytest.mark.slow
def test_several_devices(place: Path, tmp_path: Path) -> None:
    """Only the process that started them is told; they end together, with one state."""
    model, out = place / "dense.safetensors", tmp_path / "pruned.safetensors"
    options = ("--steps", 3000, *SEARCH[2:], "--devices", 2, "--accelerator", "cpu")
    state = tmp_path / ".pruned.safetensors.search"
    steps = 0
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        run = Run(_words(place, "prune", model, out, options), tmp_path / "log")
        run.wait_for(state)
        while torch.load(state, weights_only=True)["step"] == steps:
            assert run.process.is_alive(), run.said()
        assert run.process.pid is not None
        os.kill(run.process.pid, number)
        assert run.wait() == status, run.said()
        assert torch.load(state, weights_only=True)["step"] > steps
        steps = torch.load(state, weights_only=True)["step"]
        assert files(tmp_path) == [state.name, "log"], "no process holds a lock"
