"""The commands on data lists whose audio was moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("soundfile")
models = pytest.importorskip("asteroid.models")

from data_trees import mixtures, write_audio, write_lists, write_metadata  # noqa: E402

from sepprune_tp.checkpoint import save_pruned  # noqa: E402
from sepprune_tp.cli import main  # noqa: E402


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_commands_follow_moved_audio(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )
    dense = save_pruned(net, tmp_path / "dense.safetensors")
    for seed, name in enumerate(("train-100", "dev", "test")):
        files = write_audio(tmp_path / "old" / name, mixtures(3, seed=seed), "mix_clean")
        if kind == "json":
            write_lists(tmp_path / "lists" / name, files)
        else:
            write_metadata(tmp_path / "lists" / f"mixture_{name}_mix_clean.csv", files)
    shutil.move(tmp_path / "old", tmp_path / "new")
    data = ("--data", tmp_path / "lists")
    assert run("evaluate", dense, *data) == 2
    assert "9 listed file(s) do not exist" in capsys.readouterr().err

    data = (*data, "--audio-root", tmp_path / "new")
    small, better, scores = (tmp_path / name for name in ("s.safetensors", "b.safetensors", "e"))
    sizes = ("--batch-size", 2, "--seconds", 0.25)
    curve = ("--budgets", "0.6,0.8", "--steps", 2, "--no-reconstruct")
    assert run("prune", dense, *data, "-o", small, "--steps", 2, "--no-reconstruct", *sizes) == 0
    assert run("prune", dense, *data, "-o", small, *curve, *sizes) == 0
    assert run("finetune", small, *data, "-o", better, "--steps", 2, *sizes) == 0
    assert run("evaluate", better, *data, "--limit", 2, "--json", scores) == 0
    assert json.loads(scores.read_text())["mixtures"] == 2
