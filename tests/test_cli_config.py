"""Options in a file: what is read, what wins, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("yaml")
pytest.importorskip("soundfile")
pytest.importorskip("asteroid")

from cli_case import message, result, run, write_data, write_model

from sepprune_tp.commands.config import Flag, read_config
from sepprune_tp.errors import InputError

FLAGS = {
    "steps": Flag("steps", int),
    "lr": Flag("lr", float),
    "report": Flag("report", bool),
    "budgets": Flag("budgets", str),
    "budget_macs": Flag("budget_macs", str),
    "data": Flag("data", Path),
    "files": Flag("files", Path, many=True),
}


def read(folder: Path, text: str, command: str = "prune") -> dict[str, object]:
    path = folder / "conf.yml"
    path.write_text(text)
    others = {"prune": list(FLAGS), "finetune": ["val_every", "steps"]}
    return read_config(path, command, FLAGS, others).values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("steps: 5\nlr: 1e-3", {"steps": 5, "lr": 1e-3}),  # YAML reads 1e-3 as text
        ("budget-macs: 0.5\nreport: no", {"budget_macs": "0.5", "report": False}),
        ("budgets: [0.25, 50%]", {"budgets": "0.25,50%"}),
        ("files: a.wav\ndata: d", {"files": ["a.wav"], "data": "d"}),
        ("files: [a.wav, b.wav]", {"files": ["a.wav", "b.wav"]}),
        ("steps:", {}),
        ("", {}),
        ("steps: 5\nprune: {steps: 7}\nfinetune: {val_every: 3}", {"steps": 7}),
    ],
)
def test_values(text: str, values: dict[str, object], tmp_path: Path) -> None:
    assert read(tmp_path, text) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz: 5", "no option stepz. Nearest: steps."),
        ("zzzzz: 5", "There are: budget_macs"),
        ("prune: {stepz: 5}", "no option prune.stepz. Nearest: steps."),
        ("val_every: 5", "It is one of finetune: put it under `finetune:`."),
        ("steps: many", "steps in {} is 'many'; it has to be a whole number."),
        ("steps: 2.5", "steps in {} is 2.5"),
        ("steps: true", "steps in {} is true"),
        ("prune: {lr: fast}", "prune.lr in {} is 'fast'; it has to be a number."),
        ("report: 1", "report in {} is 1; it has to be true or false."),
        ("budget_macs: no", "budget_macs in {} is false; it has to be text or a number."),
        ("budget_macs: [0.5]", "budget_macs in {} is a list"),
        ("data: 3", "data in {} is 3; it has to be a path."),
        ("files: [3]", "it has to be a path or a list of these."),
        ("json: true", "json belongs on the command line"),
        ("steps: 1\nsteps: 2", "{} has steps more than once."),
        ("budget-macs: 1\nbudget_macs: 1", "sets both budget-macs and budget_macs"),
        ("- steps", "{} holds a list; a configuration holds keys and values"),
        ("steps: [", "{} is no YAML"),
        ("!!python/object/apply:os.system ['true']", "{} is no YAML"),
    ],
)
def test_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert said.replace("{}", str(tmp_path / "conf.yml")) in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Required options and arguments may stand in the file, too."""
    model, data = write_model(tmp_path / "m.safetensors"), write_data(tmp_path / "data")
    config = tmp_path / "conf.yml"
    config.write_text(
        f"model: {model}\ndata: {data}\nout: {tmp_path / 'o.safetensors'}\nsteps: 7\n"
        "batch-size: 3\nseconds: 0.25\nprune: {budget_macs: 60%, report: false}\n"
    )
    plan = result(capsys, "prune", "--config", config, "--dry-run")
    assert (plan["steps"], plan["batch_size"], plan["bounds"][0]["asked"]) == (7, 3, "'60%'")
    assert plan["writes"] == [str(tmp_path / "o.safetensors")]
    typed = ("--steps", 5, "--budget-macs", 0.7, "--report", "-o", tmp_path / "p.safetensors")
    plan = result(capsys, "prune", "--config", config, "--dry-run", *typed)
    assert (plan["steps"], plan["batch_size"], plan["bounds"][0]["asked"]) == (5, 3, "0.7")
    assert len(plan["writes"]) == 4
    tuning = result(capsys, "finetune", "--config", config, "--dry-run")
    assert (tuning["steps"], tuning["batch_size"]) == (7, 3)


def test_every_command_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.safetensors")
    config = tmp_path / "conf.yml"
    config.write_text(f"models: [{model}]\nruns: 1\nseconds: 0.1\n")
    assert list(result(capsys, "benchmark", "--config", config)["models"]) == [str(model)]
    config.write_text("sample_rte: 8000\n")
    said = message(capsys, "profile", model, "--config", config)
    assert "`sepprune profile` has no option sample_rte. Nearest: sample_rate." in said
    assert "cannot be read" in message(capsys, "profile", model, "--config", tmp_path / "none.yml")
    assert run("profile", "--config", config, "--help") == 0
