"""The conf.yml of Asteroid's recipes, as a configuration and as data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("yaml")
pytest.importorskip("soundfile")
pytest.importorskip("asteroid")

from cli_case import SPLITS, message, result, run, write_data, write_model
from data_trees import mixtures, write_audio

from sepprune_tp.commands.datasets import open_data
from sepprune_tp.data import open_mixtures
from sepprune_tp.errors import InputError

RECIPE = """
filterbank: {n_filters: 512, kernel_size: 16, stride: 8}
masknet: {n_blocks: 8, n_repeats: 3, mask_act: relu, bn_chan: 128}
training: {epochs: 200, batch_size: 3, num_workers: 4, half_lr: yes, early_stop: yes}
optim: {optimizer: adam, lr: 0.002, weight_decay: !!float 1e-5}
data:
  train_dir: data/wav8k/min/tr/
  valid_dir: data/wav8k/min/cv/
  task: sep_clean
  nondefault_nsrc:
  sample_rate: 8000
  mode: min
  segment: 0.25
main_args: {exp_dir: exp/x, help: null}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe's folder with data, run from elsewhere."""
    write_data(tmp_path / "egs" / "data" / "wav8k" / "min")
    path = tmp_path / "egs" / "local" / "conf.yml"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


def test_what_maps_onto_flags_is_taken(
    recipe: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (model, "--config", recipe, "-o", tmp_path / "o.safetensors", "--dry-run")
    assert run("finetune", *command) == 0
    said = capsys.readouterr().err
    for taken in (
        f"--data {recipe} (data.train_dir, data.valid_dir)",
        "--mix mix_clean (data.task)",
        "--sample-rate 8000 (data.sample_rate)",
        "--seconds 0.25 (data.segment)",
        "--batch-size 3 (training.batch_size)",
        "--lr 0.002 (optim.lr)",
    ):
        assert taken in said
    assert "Left out: data.mode, training.epochs (--steps says how long)" in said
    assert "Not read, the model knows itself: filterbank, masknet." in said
    plan = result(capsys, "finetune", *command, "--batch-size", 2, "--steps", 9)
    assert plan["training_mixtures"] == SPLITS["tr"] and plan["batch_size"] == 2
    assert plan["epochs"] == 9 * 2 / SPLITS["tr"]
    assert run("prune", *command, "--batch-size", 2) == 0
    said = capsys.readouterr().err
    assert "optim.lr (--lr is that of the gates)" in said and "--lr 0.002" not in said
    assert "--batch-size" not in said  # typed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("half_lr: yes", "halve_lr: yes", "training.halve_lr is not understood. Nearest: half_lr"),
        ("train_dir:", "train_dirs:", "data.train_dirs is not understood. Nearest: train_dir"),
        ("optim:", "optims:", "unknown section optims. Nearest: optim"),
        ("optimizer:", "optimiser:", "optim.optimiser is not understood. Nearest: optimizer"),
        ("batch_size: 3", "batch_size: three", "training.batch_size in"),
        ("sep_clean", "enh_both", "data.task in"),
        ("8000", "16000", "--sample-rate is 16000, but ConvTasNet was made for 8000 Hz"),
        ("min/tr/", "min/nowhere/", "data.train_dir of"),
        ("nondefault_nsrc:", "nondefault_nsrc: 3", "n_src=3"),
        ("filterbank:", "steeps: 3\nfilterbank:", "no option steeps. Nearest: steps"),
    ],
)
def test_what_is_not_understood_is_refused(
    old: str,
    new: str,
    said: str,
    recipe: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe.write_text(RECIPE.replace(old, new))
    out = tmp_path / "o.safetensors"
    assert said in message(capsys, "prune", model, "--config", recipe, "-o", out, "--dry-run")


def test_flags_may_stand_in_a_recipe(
    recipe: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(f"{RECIPE}\nprune: {{budget_macs: 0.7}}\nsteps: 3\n")
    out = tmp_path / "o.safetensors"
    plan = result(capsys, "prune", model, "--config", recipe, "-o", out, "--dry-run")
    assert plan["steps"] == 3 and plan["bounds"][0]["asked"] == "0.7"


def test_other_data_is_not_looked_for_under_the_recipes_names(
    recipe: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_data(tmp_path / "other", "mix")  # no mix_clean, as the recipe's task says
    out, command = tmp_path / "o.safetensors", ("prune", model, "--config", recipe)
    plan = result(capsys, *command, "-o", out, "--dry-run", "--data", other)
    assert plan["training_mixtures"] == SPLITS["tr"] and plan["batch_size"] == 3
    shutil.rmtree(tmp_path / "egs" / "data")
    assert run(*command, "-o", out, "--dry-run", "--data", other) == 0
    said = capsys.readouterr().err
    assert "Left out: data.train_dir, data.valid_dir, data.task" in said


def test_the_folders_named_are_those_read(recipe: Path, tmp_path: Path) -> None:
    """Not the first that the layout would give, and all of it: no mixture is held out."""
    root = tmp_path / "egs" / "data" / "wav8k" / "min"
    shutil.move(root / "tr", root / "train-100")
    other = write_audio(root / "train-360", mixtures(11, seed=9), "mix_clean")
    recipe.write_text(RECIPE.replace("min/tr/", "min/train-100"))
    train = open_data(recipe, "train", sample_rate=8000, mix=None)
    assert len(train) == SPLITS["tr"] and len(other["s1"]) == 11
    written = mixtures(SPLITS["tr"], seed=0)
    assert all(torch.equal(train[i][0], mix) for i, (mix, _) in enumerate(written))
    assert len(open_data(recipe, "val", sample_rate=8000, mix=None)) == SPLITS["cv"]
    assert len(open_data(recipe, "test", sample_rate=8000, mix=None)) == SPLITS["tt"]


def test_enhancement_has_one_target(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "egs" / "data" / "wav8k" / "min"
    for split in SPLITS:
        shutil.move(root / split / "mix_clean", root / split / "mix_single")
    recipe.write_text(RECIPE.replace("sep_clean", "enh_single"))
    mixture, sources = open_data(recipe, "val", sample_rate=8000, mix=None)[0]
    assert sources.shape == (1, len(mixture))


def test_data_may_be_a_recipe(
    recipe: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = result(capsys, "evaluate", model, "--data", recipe)
    assert scores["mixtures"] == SPLITS["tt"]
    shutil.rmtree(tmp_path / "egs" / "data" / "wav8k" / "min" / "tt")
    assert "names no test mixtures" in message(capsys, "evaluate", model, "--data", recipe)
    scores = result(capsys, "evaluate", model, "--data", recipe, "--split", "val")
    assert scores["mixtures"] == SPLITS["cv"]
    plain = tmp_path / "plain.yml"
    plain.write_text("steps: 3\n")
    assert "has no section data" in message(capsys, "evaluate", model, "--data", plain)


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    """From Python; a folder of one split is read whole, where one of all is divided."""
    write_audio(tmp_path / "all", mixtures(10))
    assert len(open_mixtures(tmp_path / "all", "val", sample_rate=8000)) == 1
    by_split = {"val": tmp_path / "all"}
    with pytest.raises(InputError, match=r"No folder was given for the split 'train', but for val"):
        open_mixtures(by_split, "train", sample_rate=8000)
    assert len(open_mixtures(by_split, "val", sample_rate=8000)) == 10
