"""Gate learning and recovery as modules of a trainer of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("lightning", reason="needs the extra 'train'")
pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'asteroid'")
pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

import lightning  # noqa: E402
from lightning_cases import ROOT, TIME, rows, same, separator, tones, weights  # noqa: E402

from sepprune_tp import (  # noqa: E402
    Budget,
    Distillation,
    GateSet,
    SepPruneImportance,
    SepPrunePruner,
    learn_gates,
    profile,
)
from sepprune_tp.errors import (  # noqa: E402
    BudgetError,
    CheckpointError,
    DataError,
    InputError,
)
from sepprune_tp.lightning import GateLearning, Recovery, load_weights  # noqa: E402

HALF, STEPS = Budget(macs=0.5), 12
NAMES = {pl: "pytorch_lightning", lightning.pytorch: "lightning"}


def loader(count: int = 8) -> Any:
    return DataLoader(tones(count), batch_size=2)


def trainer(folder: Path, package: Any = pl, **options: Any) -> Any:
    given: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "logger": package.loggers.CSVLogger(folder, name="log"),
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return package.Trainer(**{**given, **options})


def learned(**options: Any) -> GateSet:
    """What ``learn_gates`` finds on the same batches."""
    model, batches = separator(), list(loader())
    gates = GateSet(model, batches[0][0][:1])
    learn_gates(gates, batches, budget=HALF, steps=STEPS, progress=False, **options)
    return gates


def pruned() -> Any:
    model, example = separator(), torch.zeros(1, TIME)
    gates = GateSet(model, example)
    gates.load_masks({g.name: torch.arange(g.size) < g.size // 2 for g in gates.groups})
    SepPrunePruner(model, example, importance=SepPruneImportance(gates)).step()
    return model


# -- gate learning --------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [pl, lightning.pytorch], ids=["pytorch_lightning", "lightning"])
@pytest.mark.parametrize(
    ("options", "autocast"),
    [({}, None), ({"lookahead": True}, None), ({}, torch.bfloat16)],
    ids=["plain", "lookahead", "mixed"],
)
def test_a_trainer_learns_what_learn_gates_does(
    tmp_path: Path, package: Any, options: dict[str, Any], autocast: torch.dtype | None
) -> None:
    model = separator()
    before = weights(model)
    learning = GateLearning(model, HALF, steps=STEPS, package=NAMES[package], **options)
    run = trainer(tmp_path, package, precision="bf16-mixed" if autocast else "32-true")
    run.fit(learning, loader())
    whole = learned(autocast=autocast, **options)
    assert learning.gates is not None and torch.equal(learning.gates.keep, whole.keep)
    assert torch.equal(learning.gates.scores, whole.scores)
    assert (
        learning.result is not None
        and learning.result.cost.macs <= 0.5 * whole.cost_model.dense.macs
    )
    assert same(weights(model), before) and all(p.requires_grad for p in model.parameters())
    logged = rows(tmp_path)
    assert len(logged) == STEPS and {"search/loss", "search/macs"} <= logged[0].keys()
    assert float(logged[-1]["search/macs"]) == pytest.approx(learning.result.history[-1]["macs"])
    example = torch.zeros(1, TIME)
    SepPrunePruner(model, example, importance=SepPruneImportance()).step()
    assert profile(model, example).macs == learning.result.cost.macs


def test_a_search_goes_on_from_a_checkpoint_of_the_trainer(tmp_path: Path) -> None:
    whole = GateLearning(separator(), HALF, steps=STEPS, lookahead=True)
    trainer(tmp_path / "whole").fit(whole, loader())
    first = trainer(tmp_path / "first", max_epochs=1)
    with pytest.warns(UserWarning, match="ended after 4 of 12 steps"):
        begun = GateLearning(separator(), HALF, steps=STEPS, lookahead=True)
        first.fit(begun, loader())
    assert begun.result is None
    path = tmp_path / "search.ckpt"
    first.save_checkpoint(path)
    again = GateLearning(separator(), HALF, steps=STEPS, lookahead=True)
    trainer(tmp_path / "again").fit(again, loader(), ckpt_path=path)
    assert whole.gates is not None and again.gates is not None and again.result is not None
    assert torch.equal(again.gates.scores, whole.gates.scores)
    assert torch.equal(again.gates.keep, whole.gates.keep)
    assert len(again.result.history) == STEPS
    other = GateLearning(separator(), HALF, steps=STEPS + 1, lookahead=True)
    with pytest.raises(CheckpointError, match="belongs to another search"):
        trainer(tmp_path / "other").fit(other, loader(), ckpt_path=path)


def test_the_teacher_may_be_the_model_itself(tmp_path: Path) -> None:
    learning = GateLearning(separator(), HALF, steps=STEPS, loss=Distillation())
    trainer(tmp_path).fit(learning, loader())
    assert learning.gates is not None
    assert not torch.equal(learning.gates.scores, learned().scores)


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steps=0"):
        GateLearning(separator(), HALF, steps=0)
    with pytest.raises(InputError, match="package='tensorflow'"):
        GateLearning(separator(), HALF, package="tensorflow")
    with pytest.raises(BudgetError):
        trainer(tmp_path).fit(GateLearning(separator(), Budget(macs=1e-6)), loader())
    triples = DataLoader([(m, s, 0) for m, s in tones()], batch_size=2)
    with pytest.raises(DataError, match=r"GateLearning\(\.\.\., pair="):
        trainer(tmp_path / "b").fit(GateLearning(separator(), HALF), triples)
    taken = GateLearning(separator(), HALF, steps=STEPS, pair=lambda batch: batch[:2])
    trainer(tmp_path / "c").fit(taken, triples)
    assert taken.gates is not None and torch.equal(taken.gates.keep, learned().keep)


PROCESSES = """
import os
import sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}]
import test_lightning_modules as t
from torch.utils.data import DataLoader, DistributedSampler
folder = Path({folder!r})
learning = t.GateLearning(t.separator(), t.HALF, steps=t.STEPS)
rank = int(os.environ.get("LOCAL_RANK", 0))  # Lightning's own sampler would shuffle
parts = DistributedSampler(t.tones(), 2, rank, shuffle=False)
data = DataLoader(t.tones(), batch_size=1, sampler=parts)
run = t.trainer(folder, devices=2, strategy="ddp", use_distributed_sampler=False)
run.fit(learning, data)
torch.save((learning.gates.keep, learning.gates.scores), folder / f"rank{{run.global_rank}}.pt")
"""


def test_two_processes_make_one_search(tmp_path: Path) -> None:
    code = PROCESSES.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    script = tmp_path / "run.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    alone = learned()  # its batches of 2 are the mixtures of both processes
    assert torch.equal(found[0][0], alone.keep)
    assert torch.allclose(found[0][1], alone.scores, atol=1e-3)


# -- recovery -------------------------------------------------------------------------------------


class Decayed(Recovery):
    """An optimiser of one's own."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3)


@pytest.mark.parametrize("package", [pl, lightning.pytorch], ids=["pytorch_lightning", "lightning"])
def test_a_subclass_is_of_the_trainers_package(tmp_path: Path, package: Any) -> None:
    module = Decayed(pruned(), package=NAMES[package])
    assert isinstance(module, package.LightningModule)
    run = trainer(tmp_path, package, max_steps=1)
    run.fit(module, loader())
    assert isinstance(run.optimizers[0], torch.optim.AdamW)


@pytest.mark.parametrize("package", [pl, lightning.pytorch], ids=["pytorch_lightning", "lightning"])
def test_a_trainer_recovers_a_pruned_model(tmp_path: Path, package: Any) -> None:
    model = pruned()
    recovery = Recovery(model, lr=1e-3, patience=0, package=NAMES[package])
    run = trainer(tmp_path, package, max_epochs=6, gradient_clip_val=5.0, accumulate_grad_batches=2)
    run.fit(recovery, loader(), loader(2))
    values = [float(row["val_si_sdr"]) for row in rows(tmp_path) if row["val_si_sdr"]]
    assert len(values) == 6 and values[-1] > values[0]
    assert run.global_step == 12
    mixture = torch.randn(1, TIME)
    assert torch.equal(recovery(mixture), model(mixture))


def test_its_checkpoints_hold_the_shape(tmp_path: Path) -> None:
    recovery = Recovery(pruned())
    run = trainer(tmp_path / "a", max_epochs=1)
    run.fit(recovery, loader())  # without validation the rate stays
    path = tmp_path / "kept.ckpt"
    run.save_checkpoint(path)
    whole = Recovery(pruned())
    trainer(tmp_path / "whole", max_epochs=2).fit(whole, loader())
    again = Recovery(separator())  # around the dense model
    trainer(tmp_path / "b", max_epochs=2).fit(again, loader(), ckpt_path=path)
    assert same(weights(again), weights(whole)) and not same(weights(again), weights(recovery))
    loaded = load_weights(Recovery(separator()), path)
    assert same(weights(loaded), weights(recovery.model))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"patience": -1}, {"factor": 1.0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="lr must be above 0"):
        Recovery(separator(), **wrong)


def test_a_batch_that_is_no_pair_is_named(tmp_path: Path) -> None:
    data = DataLoader([(m, s, 0) for m, s in tones()], batch_size=2)
    with pytest.raises(DataError, match=r"Recovery\(\.\.\., pair="):
        trainer(tmp_path, max_epochs=1).fit(Recovery(separator()), data)
