"""Going on after a kill, weights alone, and two processes: a Lightning training that prunes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="needs the extra 'train'")
pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'asteroid'")
pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

from lightning_cases import (  # noqa: E402
    ROOT,
    TIME,
    check_optimiser,
    prune,
    same,
    system,
    trainer,
    weights,
)

from sepprune_tp import load_pruned, save_pruned  # noqa: E402
from sepprune_tp.errors import CheckpointError  # noqa: E402
from sepprune_tp.lightning import load_weights  # noqa: E402


class Killed(Exception):
    pass


class Kill(pl.Callback):  # type: ignore[misc]
    """Ends a run in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, idx: int) -> None:
        if trainer.current_epoch == self.epoch and idx == 1:
            raise Killed


@pytest.mark.parametrize(
    ("kind", "killed", "options"),
    [
        ("ConvTasNet", 1, {"distill": 0.5}),
        ("ConvTasNet", 1, {"at_epoch": 1}),
        ("ConvTasNet", 2, {"at_epoch": 1, "distill": 0.5}),
        ("DPTNet", 1, {"search_steps": 5, "reconstruct": False}),
    ],
    ids=["pruned", "before", "later", "attention"],
)
def test_a_killed_run_ends_with_the_same_weights(
    tmp_path: Path, kind: str, killed: int, options: dict[str, Any]
) -> None:
    whole, callback = system(kind), prune(**options)
    trainer(tmp_path / "whole", callback).fit(whole)
    with pytest.raises(Killed):
        trainer(tmp_path / "cut", prune(**options), Kill(killed)).fit(system(kind))
    resumed, again = system(kind), prune(**options)
    path = tmp_path / "cut" / "kept" / f"epoch={killed - 1}.ckpt"
    run = trainer(tmp_path / "resumed", again)
    run.fit(resumed, ckpt_path=path)
    assert callback.pruned is not None and again.pruned == callback.pruned
    assert same(weights(resumed), weights(whole))
    check_optimiser(resumed, resumed.optimizer)
    assert not same(weights(whole), torch.load(path, weights_only=False)["state_dict"])


def test_weights_alone_say_how_the_model_was_pruned(tmp_path: Path) -> None:
    recipe = system()
    light = pl.callbacks.ModelCheckpoint(tmp_path, "small", "val_loss", save_weights_only=True)
    run = trainer(tmp_path, prune(), light, max_epochs=1)
    run.fit(recipe)
    run.save_checkpoint(tmp_path / "after.ckpt")
    other = system()
    model = load_weights(other, tmp_path / "small.ckpt")
    assert model is other.model and same(weights(other), weights(recipe))
    assert same(weights(other), torch.load(tmp_path / "after.ckpt")["state_dict"])
    load_weights(other, tmp_path / "after.ckpt")
    mixture = torch.randn(1, TIME)
    expected = recipe.model.eval()(mixture)
    assert torch.equal(model.eval()(mixture), expected)
    save_pruned(model, tmp_path / "small.safetensors")
    assert torch.equal(load_pruned(tmp_path / "small.safetensors")(mixture), expected)
    fresh = system()
    trainer(tmp_path / "test", prune()).validate(
        fresh, ckpt_path=tmp_path / "small.ckpt", verbose=False
    )
    assert same(weights(fresh), weights(recipe))


def test_checkpoints_that_cannot_be_loaded_say_why(tmp_path: Path) -> None:
    recipe = system()
    run = trainer(tmp_path, prune(), max_epochs=1)
    run.fit(recipe)
    without = {"state_dict": recipe.state_dict()}
    with pytest.raises(CheckpointError, match="was written without PruneCallback"):
        load_weights(system(), without)
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"Cannot read .*junk\.ckpt as a checkpoint"):
        load_weights(system(), tmp_path / "junk.ckpt")
    with pytest.raises(CheckpointError, match="arguments that it had"):
        load_weights(system("DPTNet"), tmp_path / "kept" / "epoch=0.ckpt")


# -- two processes --------------------------------------------------------------------------------

SCRIPT = """
import sys, torch, pytorch_lightning as pl
from pathlib import Path
sys.path.insert(0, {tests!r})
import lightning_cases as t

folder, resume = Path(sys.argv[1]), (sys.argv[2:] or [None])[0]
torch.set_num_threads(1)
recipe, callback = t.system(), t.prune(distill=0.5, search_steps=10)
run = t.trainer(folder, callback, devices=2, strategy="ddp_find_unused_parameters_true")
run.fit(recipe, ckpt_path=resume)
torch.save((recipe.state_dict(), callback.pruned.kept), folder / f"{{run.global_rank}}.pt")
"""


@pytest.mark.slow
def test_two_processes_prune_alike_and_go_on(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(folder: Path, *more: str) -> Iterator[Any]:
        folder.mkdir()
        command = [sys.executable, "-W", "ignore", str(script), str(folder), *more]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return (torch.load(folder / f"{rank}.pt") for rank in range(2))

    (first, kept), (second, other) = run(tmp_path / "whole")
    assert kept == other and same(first, second)
    assert any(left < before for left, before in kept.values())
    (resumed, again), _ = run(
        tmp_path / "resumed", str(tmp_path / "whole" / "kept" / "epoch=0.ckpt")
    )
    assert again == kept and same(resumed, first)
