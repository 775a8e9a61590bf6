"""``--json``: one document on stdout, whatever happens, and files that are not lost by it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("soundfile")
pytest.importorskip("lightning")
pytest.importorskip("asteroid")

from cli_case import message, process, result, run, write_data, write_model

from sepprune_tp.checkpoint import load_pruned
from sepprune_tp.commands import app
from sepprune_tp.commands.output import plain, printing

SHORT = ("--steps", 2, "--batch-size", 2, "--seconds", 0.25)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def test_every_command_has_the_shared_options() -> None:
    commands = {entry.callback.__name__: entry.callback for entry in app.registered_commands}
    assert {"profile", "prune", "finetune", "evaluate", "separate", "demo"} <= commands.keys()
    for callback in commands.values():
        assert {"config", "json", "json_out", "quiet"} <= callback.__signature__.parameters.keys()


def test_profile_and_explain(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = sum(p.numel() for p in load_pruned(model).parameters())
    found = result(capsys, "profile", model)
    assert found["params"] == params and found["macs"] == sum(r["macs"] for r in found["rows"])
    found = result(capsys, "explain", model)
    assert found["params"] == params and found["groups"][0]["channels"] == 8
    parts = result(capsys, "explain", model, "masker.bottleneck.1")["parts"]
    assert [(part["side"], part["group"]) for part in parts] == [
        ("in", "encoder"),
        ("out", "masker.bottleneck.1"),
    ]


def test_separate_export_benchmark(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture = data / "tt" / "mix_clean" / "00.wav"
    found = result(capsys, "separate", model, mixture, "-o", tmp_path / "out")
    assert [Path(p).is_file() for p in found["sources"][str(mixture)]] == [True, True]
    found = result(capsys, "export", model, "-o", tmp_path / "m.pt", "--seconds", 0.2)
    assert found["format"] == "torchscript" and found["difference"] < 1e-4
    found = result(capsys, "benchmark", model, "demo", "--runs", 1, "--seconds", 0.1)
    assert found["models"][str(model)]["ratio"] == 1.0 and found["models"]["demo"]["params"] > 0


def test_prune_finetune_evaluate(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, better = tmp_path / "s.safetensors", tmp_path / "b.safetensors"
    found = result(capsys, "prune", model, "--data", data, "-o", small, *SHORT, "--no-report")
    assert found["pruned"]["macs"] <= 0.5 * found["dense"]["macs"]
    assert found["written"] == [str(small)] and found["budget"]["macs"]["asked"] == "0.5"
    family = ("--budgets", "0.6,0.8", "--curve-mixtures", 0)
    found = result(capsys, "prune", model, "--data", data, "-o", small, *SHORT, *family)
    assert [member["file"] for member in found["members"]] == [
        "s-0.6.safetensors",
        "s-0.8.safetensors",
    ]
    found = result(capsys, "finetune", small, "--data", data, "-o", better, *SHORT)
    assert found["steps"] == 2 and found["si_sdr"] == max(r["si_sdr"] for r in found["history"])
    assert result(capsys, "evaluate", better, "--data", data, "--limit", 1)["mixtures"] == 1


def test_failures_are_objects(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, kind, said in [
        (("profile", "none.pth"), "CheckpointError", "is not a file"),
        (("profile", model, "--nosuch"), "UsageError", "No such option: --nosuch"),
        (("profile",), "UsageError", "Missing argument 'MODEL'"),
        (("profile", model, "--seconds", "x"), "UsageError", "seconds"),
        (("profile", model, "--config", "none.yml"), "InputError", "cannot be read"),
        (("nosuch",), "UsageError", "No such command"),
    ]:
        found = result(capsys, *arguments, code=2)
        assert found.keys() == {"error", "kind"}
        assert found["kind"] == kind and said in found["error"], arguments


def test_json_keeps_out_what_others_print(capfd: pytest.CaptureFixture[str]) -> None:
    """Also what libraries write to the descriptor; without --json it is left alone."""

    def others() -> None:
        print("from Python")
        os.write(1, b"from C\n")

    with printing(json=True, quiet=False):
        others()
    shown = capfd.readouterr()
    assert shown.out == "" and "from Python" in shown.err and "from C" in shown.err
    with printing(json=False, quiet=False):
        others()
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "from C", "from Python"]


def test_document_goes_to_a_file_too(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "p.json"
    assert run("profile", model, "--json-out", out) == 0
    assert "separator" in capsys.readouterr().out
    assert json.loads(out.read_text())["macs"] > 0
    for option in (("--json", out), (f"--json={out}",)):  # as it once was
        out.unlink()
        assert run("profile", model, *option) == 0
        assert json.loads(out.read_text())["macs"] > 0 and "separator" in capsys.readouterr().out
    found = result(capsys, "profile", model, "--json-out", out)
    assert json.loads(out.read_text()) == found


def test_a_model_is_never_taken_for_the_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    assert run("profile", "--json", model) == 0
    assert json.loads(capsys.readouterr().out)["macs"] > 0
    other = write_model(tmp_path / "other.safetensors")
    said = message(capsys, "profile", model, "--json-out", other)
    assert "exists and holds no JSON" in said
    assert model.read_bytes() == before and load_pruned(other) is not None


def test_numbers_that_json_lacks() -> None:
    values: dict[Any, Any] = {1: float("nan"), "b": (float("inf"), 2), "c": Path("x")}
    assert plain(values) == {"1": None, "b": [None, 2], "c": "x"}


def test_a_process_prints_one_document(model: Path) -> None:
    done = process("profile", model, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["model"] == "ConvTasNet"
    assert done.stderr == ""
