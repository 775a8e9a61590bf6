"""``--dry-run``: all is checked, the figures are those of the job, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("soundfile")
pytest.importorskip("lightning")
pytest.importorskip("asteroid")

from cli_case import SPLITS, everything, message, result, run, write_data, write_model

from sepprune_tp.checkpoint import load_pruned, read_header
from sepprune_tp.gates import GateSet
from sepprune_tp.profile import profile

SHORT = ("--steps", 4, "--batch-size", 2, "--seconds", 0.25)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def test_prune_says_what_is_known_and_writes_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(tmp_path)
    out = tmp_path / "new" / "s.safetensors"
    command = ("prune", model, "--data", data, "-o", out, *SHORT)
    state = ("--checkpoint", tmp_path / "state.pt")
    plan = result(capsys, *command, *state, "--dry-run")
    assert everything(tmp_path) == before and not out.parent.exists()
    net = load_pruned(model)
    example = torch.randn(1, 8000)
    gates, dense = GateSet(net, example), profile(net, example)
    assert (plan["params"], plan["macs"]) == (dense.params, dense.macs)
    assert plan["groups"] == len(gates.groups) and plan["gateable_channels"] == len(gates)
    fewest = gates.cost({g.name: torch.arange(g.size) < 1 for g in gates.groups})
    macs, params = plan["bounds"]
    assert (macs["least"], macs["most"]) == (fewest.macs, dense.macs / 2)
    assert (params["asked"], params["least"], params["most"]) == (None, fewest.params, dense.params)
    assert plan["training_mixtures"] == SPLITS["tr"] and plan["validation_mixtures"] == SPLITS["cv"]
    assert plan["epochs"] == 4 * 2 / SPLITS["tr"] and not plan["resumes"]
    assert not {"widths", "kept", "pruned"} & plan.keys()  # no guess at what the search will find
    assert run(*command) == 0
    after = read_header(out).metadata["pruned"]
    assert macs["least"] <= after["macs"] <= macs["most"]
    assert params["least"] <= after["params"] <= params["most"]
    assert {Path(path) for path in plan["writes"]} == set(out.parent.iterdir())


def test_the_text_has_the_figures(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.safetensors"
    command = ("prune", model, "--data", data, "-o", out, *SHORT, "--dry-run")
    assert run(*command, "--budgets", "0.6,0.8") == 0
    shown = capsys.readouterr()
    assert "2,061 parameters, 2,013,984 MACs" in shown.out and "48 in 4 groups" in shown.out
    assert "macs='0.6': at most 1,208,390" in shown.out and "macs='0.8'" in shown.out
    assert "s-0.6.safetensors" in shown.out and "s-family.png" in shown.out
    assert "nothing is written" in shown.err and "the search has to find out" in shown.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget-macs", 0.01), "macs=0.4108 reachable (827,172 MACs, 41.1% of the dense model)"),
        (("--budget-params", "100"), "params=658 reachable"),
        (("--budgets", "0.8,0.1"), "macs='0.1' asked"),
        (("--budget-macs", "half"), "give a share"),
        (("--round-to", 0), "round_to is 0"),
        (("--devices", 2, "--accelerator", "cpu", "--batch-size", 3), "cannot share evenly"),
        (("--mix", "mix_both"), "no folder of mixtures"),
        (("--steps", 0), "steps and lr must be above 0"),
    ],
)
def test_what_the_job_would_refuse_is_refused(
    options: tuple[object, ...],
    said: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "s.safetensors"
    command = ("prune", model, "--data", data, "-o", out, *SHORT, "--dry-run", *options)
    assert said in message(capsys, *command)


def test_a_model_for_other_speakers_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from asteroid.models import ConvTasNet

    from sepprune_tp.checkpoint import save_pruned

    net = ConvTasNet(
        n_src=3, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
    )
    three = save_pruned(net, tmp_path / "three.safetensors")
    for command in ("prune", "finetune"):
        arguments = (command, three, "--data", data, "-o", tmp_path / "s", *SHORT, "--dry-run")
        assert "as many speakers as the data has" in message(capsys, *arguments)


def test_finetune(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, states = tmp_path / "new" / "b.safetensors", tmp_path / "states"
    command = ("finetune", model, "--data", data, "-o", out, *SHORT, "--val-every", 2)
    command = (*command, "--checkpoint-dir", states)
    before = everything(tmp_path)
    plan = result(capsys, *command, "--dry-run", "--distill", model)
    assert everything(tmp_path) == before and not out.parent.exists()
    assert plan["validations"] == 3 and plan["seconds_per_step"] > 0 and not plan["resumes"]
    assert plan["writes"] == [str(out)]
    assert run(*command) == 0
    assert result(capsys, *command, "--dry-run")["resumes"]
    assert "is not a file" in message(capsys, *command, "--dry-run", "--distill", "none.pth")


def test_others_that_write(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(tmp_path)
    mixture = data / "tt" / "mix_clean" / "00.wav"
    plan = result(capsys, "separate", model, mixture, "-o", tmp_path / "out", "--dry-run")
    assert plan["files"][str(mixture)]["sources"] == [
        str(tmp_path / "out" / f"00_s{number}.wav") for number in (1, 2)
    ]
    plan = result(capsys, "export", model, "-o", tmp_path / "m.pt", "--dry-run", "--seconds", 0.2)
    assert plan["dry_run"] and plan["difference"] < 1e-4
    assert "is not a file" in message(capsys, "separate", "none.pth", mixture, "--dry-run")
    assert everything(tmp_path) == before


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("espeakng_loader")
    plan = result(capsys, "demo", "--out", tmp_path / "demo", "--dry-run", "--batch-size", 1)
    assert plan["bounds"][0]["most"] == plan["macs"] / 2 and plan["recovery_steps"] == 200
    assert not list(tmp_path.iterdir())
    said = message(capsys, "demo", "--out", tmp_path / "demo", "--dry-run", "--budget-macs", 0.001)
    assert "out of reach" in said
