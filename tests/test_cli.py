"""The commands end to end on small models and data, and one message for each thing gone wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("rich")
soundfile = pytest.importorskip("soundfile")
models = pytest.importorskip("asteroid.models")

from sepprune_tp.checkpoint import load_pruned, read_header, save_pruned  # noqa: E402
from sepprune_tp.cli import main  # noqa: E402
from sepprune_tp.files.locking import alone_with  # noqa: E402
from sepprune_tp.measure.memory import measure_memory  # noqa: E402

RATE = 8000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small untrained Conv-TasNet on disk."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )
    return save_pruned(net, tmp_path / "dense.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve mixtures of noise in the layout of WHAM! and LibriMix, without splits."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "data"
    for index in range(12):
        sources = 0.05 * torch.randn(2, RATE, generator=generator)
        parts = {"mix": sources.sum(0), "s1": sources[0], "s2": sources[1]}
        for name, signal in parts.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{index}.wav", signal.numpy(), RATE)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_profile_writes_all_layers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("profile", model, "--json", tmp_path / "profile.json") == 0
    assert "separator" in capsys.readouterr().out
    report = json.loads((tmp_path / "profile.json").read_text())
    assert report["params"] == sum(p.numel() for p in load_pruned(model).parameters())
    assert report["macs"] == sum(row["macs"] for row in report["rows"])


def test_evaluate(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert run("evaluate", model, "--data", data, "--limit", 3, "--json", out) == 0
    scores = json.loads(out.read_text())
    assert scores["mixtures"] == 3 and scores["si_sdri"] < 30


def test_separate_writes_every_source(model: Path, data: Path, tmp_path: Path) -> None:
    assert run("separate", model, data / "mix" / "0.wav", "-o", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0_s1.wav", "0_s2.wav"]
    signal, rate = soundfile.read(tmp_path / "out" / "0_s1.wav")
    assert rate == RATE and len(signal) == RATE


def test_prune_meets_the_budget_and_reloads(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned.safetensors"
    options = ("--budget-macs", 0.6, "--steps", 5, "--batch-size", 2, "--seconds", 0.5)
    assert run("prune", model, "--data", data, "-o", out, *options) == 0
    facts = read_header(out).metadata
    assert facts["pruned"]["macs"] <= 0.6 * facts["dense"]["macs"]
    assert facts["settings"]["budget_macs"] == 0.6
    with torch.no_grad():
        assert load_pruned(out)(torch.randn(1, RATE)).shape == (1, 2, RATE)


def test_prune_on_two_devices_writes_what_one_does(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="several devices need the extra 'train'")
    options = ("--steps", 20, "--batch-size", 2, "--seconds", 0.5, "--accelerator", "cpu")
    for devices in (1, 2):
        out = tmp_path / f"{devices}.safetensors"
        assert run("prune", model, "--data", data, "-o", out, "--devices", devices, *options) == 0
    one, two = (load_pruned(tmp_path / f"{devices}.safetensors") for devices in (1, 2))
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.slow
def test_finetune_on_two_devices_writes_a_model(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="recovery needs the extra 'train'")
    out = tmp_path / "recovered.safetensors"
    options = ("--steps", 2, "--batch-size", 2, "--seconds", 0.5, "--accelerator", "cpu")
    assert run("finetune", model, "--data", data, "-o", out, "--devices", 2, *options) == 0
    assert read_header(out).metadata["recovery"]["steps"] == 2


def test_devices_and_accelerators_that_do_not_go_together(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("finetune", model, "--data", data, "-o", tmp_path / "x.safetensors")
    text = message_of(capsys, *command, "--accelerator", "tpu")
    assert "--accelerator is 'tpu'; it is one of cpu, gpu, auto" in text
    if not torch.cuda.is_available():
        text = message_of(capsys, *command, "--accelerator", "gpu")
        assert "this torch sees no GPU" in text
    text = message_of(capsys, *command, "--devices", 2, "--batch-size", 3)
    assert "3 mixtures, which 2 processes cannot share evenly" in " ".join(text.split())


def test_prune_takes_units_and_several_bounds(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned.safetensors"
    options = ("--steps", 2, "--batch-size", 1, "--seconds", 0.25)
    bounds = ("--budget-memory", "90%", "--budget-params", "1.3k", "--scope", "all")
    assert run("prune", model, "--data", data, "-o", out, *bounds, *options) == 0
    facts = read_header(out).metadata
    assert facts["settings"]["budget_params"] == "1.3k" and facts["pruned"]["params"] <= 1300
    memory = measure_memory(load_pruned(out), torch.randn(1, RATE)).peak
    assert memory == facts["budget"]["memory"]["cost"] <= facts["budget"]["memory"]["bound"]


def test_prune_writes_a_family_from_one_search(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.safetensors"
    options = ("--steps", 4, "--batch-size", 1, "--seconds", 0.25, "--curve-mixtures", 1)
    wanted = ("--budgets", "0.5,80%")
    assert run("prune", model, "--data", data, "-o", out, *wanted, *options) == 0
    report = json.loads((tmp_path / "small-family.json").read_text())
    for member, share in zip(report["members"], (0.5, 0.8), strict=True):
        assert member["macs"] <= share * report["dense"]["macs"]
        network = load_pruned(tmp_path / member["file"])
        assert sum(p.numel() for p in network.parameters()) == member["params"]
        assert abs(member["si_sdri"]) < 60 and report["mixtures"] == 1
    assert [m["file"] for m in report["members"]] == [
        "small-0.5.safetensors",
        "small-80pct.safetensors",
    ]
    assert report["members"][0]["params"] < report["members"][1]["params"]
    assert (tmp_path / "small-family.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "small-family.md").read_text()
    assert "SI-SDRi (dB)" in text and "`small-0.5.safetensors` | 0.5 |" in text
    assert not out.exists()
    for bad, expected in [
        (("--budgets", "0.5,0.5"), "give different ones"),
        (("--budgets", "0.5,half"), "macs='half': give a share"),
        (("--budgets", "0.5", "--budget-params", "0.5"), "leave the other"),
    ]:
        arguments = ("prune", model, "--data", data, "-o", out, *bad)
        assert expected in message_of(capsys, *arguments), bad


def test_finetune_writes_a_model(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    options = ("--steps", 2, "--batch-size", 2, "--seconds", 0.5, "--val-every", 1)
    assert run("finetune", model, "--data", data, "-o", out, *options) == 0
    assert read_header(out).metadata["recovery"]["steps"] == 2
    before, after = load_pruned(model).state_dict(), load_pruned(out).state_dict()
    assert before.keys() == after.keys()


def test_finetune_learns_from_a_dense_model(model: Path, data: Path, tmp_path: Path) -> None:
    options = ("--steps", 2, "--batch-size", 2, "--seconds", 0.5, "--val-every", 1)
    tuned = []
    for name, weight in (("one", 1.0), ("other", 0.0)):
        out = tmp_path / f"{name}.safetensors"
        teacher = ("--distill", model, "--distill-weight", weight)
        assert run("finetune", model, "--data", data, "-o", out, *options, *teacher) == 0
        tuned.append(read_header(out).metadata["recovery"]["steps"])
    assert tuned == [2, 2]
    out = tmp_path / "none.safetensors"
    assert run("finetune", model, "--data", data, "-o", out, "--distill", "nothing.pth") != 0


def test_benchmark_compares_models(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "times.json"
    options = ("--runs", 2, "--seconds", 0.5, "--json", out)
    assert run("benchmark", model, *options) == 0
    (figures,) = json.loads(out.read_text())["models"].values()
    assert figures["ratio"] == 1.0 and figures["latency_ms"] > 0


def test_export_torchscript_runs_alone(model: Path, tmp_path: Path) -> None:
    assert run("export", model, "-o", tmp_path / "model.pt") == 0
    x = torch.randn(2, 3000)
    with torch.no_grad():
        expected = load_pruned(model)(x)
        assert torch.allclose(torch.jit.load(tmp_path / "model.pt")(x), expected, atol=1e-5)


def test_export_onnx_runs_alone(model: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert run("export", model, "-o", tmp_path / "model.onnx") == 0
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    x = torch.randn(2, 3000)
    with torch.no_grad():
        expected = load_pruned(model)(x)
    found = torch.from_numpy(session.run(None, {"mixture": x.numpy()})[0])
    assert torch.allclose(found, expected, atol=1e-4)


def test_export_that_fails_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    net = models.DCUNet("mini", fix_length_mode="pad")
    path = save_pruned(net, tmp_path / "dcunet.safetensors")
    assert run("export", path, "-o", tmp_path / "model.onnx") == 2
    message = capsys.readouterr().err
    assert "cannot be exported as onnx" in message and "--format torchscript" in message
    assert [p.name for p in tmp_path.iterdir()] == ["dcunet.safetensors"]


def message_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message of a command that has to fail with code 2."""
    capsys.readouterr()
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    return shown.err


def test_bad_input_is_one_message(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("-o", tmp_path / "out.safetensors")
    for arguments, expected in [
        (("profile", tmp_path / "none"), "is not a file"),
        (("profile", model, "--sample-rate", 16000), "was made for 8000 Hz"),
        (("profile", model, "--device", "nonsense"), "is no device"),
        (("profile", model, "--seconds", 0), "has to be above 0"),
        (("evaluate", model, "--data", tmp_path / "none"), "is not a folder"),
        (("evaluate", model, "--data", tmp_path), "has no folder of mixtures"),
        (("evaluate", model, "--data", data, "--split", "dev2"), "the splits are train, val, test"),
        (("prune", model, "--data", data, *out, "--kind", "magic"), "the kinds are budget, gumbel"),
        (("prune", model, "--data", data, *out, "--budget-macs", 50), "reachable"),
        (("prune", model, "--data", data, *out, "--budget-macs", 0), "give a share"),
        (("export", model, "-o", tmp_path / "m", "--format", "tflite"), "torchscript, onnx"),
    ]:
        assert expected in message_of(capsys, *arguments), arguments
    assert not (tmp_path / "out.safetensors").exists()


def test_usage_errors_and_help() -> None:
    assert run("prune") == 2
    assert run("--help") == 0


def test_missing_source_is_named(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "s2" / "7.wav").unlink()
    assert "lacks 7.wav" in message_of(capsys, "evaluate", model, "--data", data)


def test_wrong_sample_rate_of_data(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signal, _ = soundfile.read(data / "mix" / "0.wav")
    soundfile.write(data / "mix" / "0.wav", signal, 16000)
    assert "needs 1 at 8000 Hz" in message_of(capsys, "evaluate", model, "--data", data)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only our own errors become messages."""
    import sepprune_tp.commands.common as common

    def broken(name: str) -> nn.Module:
        raise ZeroDivisionError

    monkeypatch.setattr(common, "load_model", broken)
    with pytest.raises(ZeroDivisionError):
        run("profile", "x")


def test_demo_writes_its_report(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    out = tmp_path / "demo"
    options = ("--steps", 2, "--recovery-steps", 1, "--batch-size", 1, "--limit", 2)
    assert run("demo", "--out", out, *options) == 0
    report = json.loads((out / "report.json").read_text())
    keys = {"si_sdri", "sdri", "params", "macs", "latency_ms", "rtf"}
    for stage in ("dense", "pruned", "recovered"):
        assert keys <= report[stage].keys()
    assert report["pruned"]["macs"] <= 0.5 * report["dense"]["macs"]
    assert report["recovered"]["params"] == report["pruned"]["params"]
    assert (out / "channels.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.md").read_text()
    assert "| recovered |" in text and all(name in text for name in report["groups"])
    assert len(list((out / "audio").rglob("*.wav"))) == 3 * 3 * 2
    check_reload(out, report)


def test_one_demo_at_a_time_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone_with(tmp_path / "report.json"):
        assert run("demo", "--out", tmp_path, "--steps", 1) == 2
    assert f"process {os.getpid()} works on" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def check_reload(out: Path, report: dict[str, Any]) -> None:
    for stage in ("pruned", "recovered"):
        net = load_pruned(out / f"{stage}.safetensors")
        assert sum(p.numel() for p in net.parameters()) == report[stage]["params"]
