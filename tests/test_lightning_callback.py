"""Pruning inside a Lightning training: what changes, what stays, and going on after a kill."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="needs the extra 'train'")
pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'asteroid'")
models = pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

import lightning  # noqa: E402
from asteroid.engine.system import System  # noqa: E402
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr  # noqa: E402

from sepprune_tp import (  # noqa: E402
    Budget,
    GateSet,
    learn_gates,
    load_pruned,
    profile,
    save_pruned,
)
from sepprune_tp.errors import BudgetError, CheckpointError, DataError, InputError  # noqa: E402
from sepprune_tp.job import cut  # noqa: E402
from sepprune_tp.lightning import PruneCallback, load_weights  # noqa: E402
from sepprune_tp.lightning.trainers import check_trainer  # noqa: E402
from sepprune_tp.losses import pit_neg_si_sdr  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TIME, HALF = 400, Budget(macs=0.5)


def tones(count: int = 8) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(count, 4, generator=generator)
    rates = torch.stack([0.05 + 0.1 * drawn[:, 0], 1.2 + 0.5 * drawn[:, 1]], 1)
    sources = torch.sin(rates[..., None] * torch.arange(TIME) + 6 * drawn[:, 2:, None])
    return TensorDataset(sources.sum(1), sources)


def separator(kind: str = "ConvTasNet") -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "DPTNet":
            return models.DPTNet(
                n_src=2, n_filters=16, n_heads=2, ff_hid=8, chunk_size=10, n_repeats=1
            )
        return models.ConvTasNet(
            n_src=2, n_filters=16, bn_chan=8, hid_chan=16, skip_chan=8, n_blocks=2, n_repeats=1
        )


def system(kind: str = "ConvTasNet", loader: Any = None) -> System:
    """What an Asteroid recipe makes: the optimiser holds the dense model's parameters."""
    model = separator(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(tones(), batch_size=2) if loader is None else loader
    return System(
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        loss_func=PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx"),
        train_loader=loader,
        val_loader=DataLoader(tones(2), batch_size=2),
        config={"training": {"epochs": 3}},
    )


def prune(budget: Budget = HALF, **options: Any) -> PruneCallback:
    return PruneCallback(budget, **{"search_steps": 20, "progress": False, **options})


def trainer(folder: Path, *callbacks: Any, package: Any = pl, **options: Any) -> Any:
    keep = package.callbacks.ModelCheckpoint(folder / "kept", save_top_k=-1, filename="{epoch}")
    given: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": package.loggers.CSVLogger(folder, name="log"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "callbacks": [keep, *callbacks],
    }
    return package.Trainer(**{**given, **options})


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("log/*/metrics.csv")
    return list(csv.DictReader(path.open()))


def check_optimiser(module: Any, optimizer: torch.optim.Optimizer) -> None:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    present = list(module.model.parameters())
    assert len(held) == len(present)
    assert all(a is b for a, b in zip(held, present, strict=True))
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in held if p in optimizer.state)


# -- what it does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 5.0},
    ],
    ids=["plain", "mixed", "double", "accumulated"],
)
def test_a_recipe_prunes_and_recovers(
    tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    recipe, callback = system(), prune()
    dense = profile(recipe.model, torch.randn(1, TIME))
    run = trainer(tmp_path, callback, **options)
    run.fit(recipe)
    small = profile(recipe.model.float(), torch.randn(1, TIME))
    assert f"Pruned at epoch 0: {small.params:,} of {dense.params:,} parameters" in caplog.text
    assert small.macs <= 0.5 * dense.macs
    assert callback.pruned is not None and callback.pruned.epoch == 0
    assert (callback.pruned.macs, callback.pruned.params) == (small.macs, small.params)
    assert (callback.pruned.dense_macs, callback.pruned.dense_params) == (dense.macs, dense.params)
    assert any(left < before for left, before in callback.pruned.kept.values())
    check_optimiser(recipe, recipe.optimizer)
    assert recipe.optimizer is run.optimizers[0] and recipe.optimizer.param_groups[0]["lr"] == 5e-4
    steps = 3 * 4 // options.get("accumulate_grad_batches", 1)
    assert run.global_step == steps
    assert "on_load_checkpoint" not in vars(recipe) and "on_save_checkpoint" not in vars(recipe)
    found = [row for row in rows(tmp_path) if row["prune/macs"]]
    assert [float(row["prune/macs"]) for row in found] == [small.macs]
    losses = [float(row["val_loss"]) for row in rows(tmp_path) if row["val_loss"]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert callback.search is not None
    searched = [row["prune/search_loss"] for row in rows(tmp_path) if row["prune/search_loss"]]
    assert [float(text) for text in searched] == [r["loss"] for r in callback.search.history]


def test_pruning_later_forgets_the_dense_scores(tmp_path: Path) -> None:
    recipe = system()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(recipe.optimizer, patience=9)
    recipe.scheduler = plateau
    stop = pl.callbacks.EarlyStopping("val_loss", patience=1, mode="min")
    best = pl.callbacks.ModelCheckpoint(tmp_path / "best", monitor="val_loss", filename="{epoch}")
    seen: list[tuple[int, float]] = []

    class Watch(pl.Callback):  # type: ignore[misc]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            assert float(stop.best_score) == pytest.approx(plateau.best)
            seen.append((sum(p.numel() for p in recipe.parameters()), plateau.best))

    callback = prune(Budget(macs=0.3), scope="all", at_epoch=2, search_steps=10)
    run = trainer(tmp_path, callback, Watch(), stop, best, max_epochs=4)
    run.fit(recipe)
    sizes = [size for size, _ in seen]
    assert sizes[7] > sizes[8] and len(set(sizes[:8])) == len(set(sizes[8:])) == 1
    assert seen[7][1] < float("inf") and seen[8][1] == float("inf")
    assert callback.pruned is not None and callback.pruned.epoch == 2
    assert Path(best.best_model_path).stem in ("epoch=2", "epoch=3")
    dense = torch.load(tmp_path / "kept" / "epoch=1.ckpt", weights_only=False)
    load_weights(recipe, dense)  # and back: shapes of either are loaded into either
    assert sum(p.numel() for p in recipe.parameters()) == sizes[0]


def test_it_prunes_as_the_search_does_by_hand(tmp_path: Path) -> None:
    recipe, byhand, callback = system(), system(), prune()
    at_start: dict[str, Tensor] = {}

    class Watch(pl.Callback):  # type: ignore[misc]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            at_start.update(weights(recipe.model))

    trainer(tmp_path, callback, Watch(), max_steps=1).fit(recipe)
    batches = list(byhand.train_loader)
    gates = GateSet(byhand.model, batches[0][0][:1])
    how: dict[str, Any] = {"steps": 20, "lookahead": True, "progress": False}
    found = learn_gates(gates, batches, byhand.loss_func, HALF, **how)
    cut(gates, batches)
    assert same(at_start, weights(byhand.model))
    assert callback.search is not None and callback.search.history == found.history


def test_groups_of_parameters_and_their_settings_stay(tmp_path: Path) -> None:
    recipe = system()
    names = {id(p): name for name, p in recipe.model.named_parameters()}
    parts = [recipe.model.encoder, recipe.model.masker, recipe.model.decoder]
    groups = [{"params": p.parameters(), "lr": 1e-3 * (k + 1)} for k, p in enumerate(parts)]
    recipe.optimizer, recipe.scheduler = torch.optim.SGD(groups, momentum=0.9), None
    before = [[names[id(p)] for p in g["params"]] for g in recipe.optimizer.param_groups]
    trainer(tmp_path, prune(scope="all"), max_epochs=1).fit(recipe)
    names = {id(p): name for name, p in recipe.model.named_parameters()}
    assert before == [[names[id(p)] for p in g["params"]] for g in recipe.optimizer.param_groups]
    assert [group["lr"] for group in recipe.optimizer.param_groups] == [1e-3, 2e-3, 3e-3]


def test_a_callback_prunes_each_model_once(tmp_path: Path) -> None:
    first, second, callback = system(), system(), prune(search_steps=5)
    trainer(tmp_path / "1", callback, max_epochs=1).fit(first)
    done, size = callback.pruned, sum(p.numel() for p in first.parameters())
    assert callback.search is not None and len(callback.search.history) == 5
    trainer(tmp_path / "2", callback, max_epochs=1).fit(first)
    assert callback.pruned is done and sum(p.numel() for p in first.parameters()) == size
    trainer(tmp_path / "3", callback, max_epochs=1).fit(second)
    assert callback.pruned is not done and callback.pruned == done
    assert sum(p.numel() for p in second.parameters()) == size


def test_a_budget_out_of_reach_is_refused_before_any_training(tmp_path: Path) -> None:
    recipe = system()
    before = weights(recipe)
    with pytest.raises(BudgetError, match=r"macs=0\.01 asked, macs=0\.4108 reachable"):
        trainer(tmp_path, prune(Budget(macs=0.01), at_epoch=2)).fit(recipe)
    assert same(weights(recipe), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_batches_are_those_without_a_search(tmp_path: Path, workers: int) -> None:
    def order(*callbacks: Any) -> list[float]:
        seen = []

        class Watch(pl.Callback):  # type: ignore[misc]
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, _: int) -> None:
                seen.append(float(batch[0].sum() + torch.rand(())))

        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(1)
        stay = {"num_workers": workers, "persistent_workers": bool(workers)}
        data = DataLoader(tones(), batch_size=2, shuffle=True, generator=generator, **stay)
        trainer(tmp_path, *callbacks, Watch(), max_epochs=2).fit(system(loader=data))
        return seen

    assert order() == order(prune(search_steps=7))


# -- going on -------------------------------------------------------------------------------------


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


# -- distillation ---------------------------------------------------------------------------------


def test_a_teacher_changes_training_and_not_validation(tmp_path: Path) -> None:
    plain, taught = system(), system()
    trainer(tmp_path / "plain", prune(), max_epochs=1).fit(plain)
    callback = prune(distill=0.5)
    trainer(tmp_path / "taught", callback, max_epochs=1).fit(taught)
    assert not same(weights(plain), weights(taught))
    with torch.no_grad():
        mixture, sources = taught.val_loader.dataset[:]
        expected = float(taught.eval().loss_func(taught(mixture), sources))
    (loss,) = [float(row["val_loss"]) for row in rows(tmp_path / "taught") if row["val_loss"]]
    assert loss == pytest.approx(expected, rel=1e-5)
    losses = [
        [float(row["loss"]) for row in rows(tmp_path / name) if row["loss"]]
        for name in ("plain", "taught")
    ]
    assert all(one != other for one, other in zip(*losses, strict=True))
    assert not taught.loss_func._forward_hooks and not taught.model._forward_pre_hooks


# -- other modules and trainers -------------------------------------------------------------------


class Plain(lightning.LightningModule):
    """A module of the package ``lightning``, whose batches hold a name too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = separator()
        self.compare = pit_neg_si_sdr

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.compare(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> DataLoader[Any]:
        mixture, sources = tones()[:]
        return DataLoader(TensorDataset(mixture, sources, torch.arange(8)), batch_size=2)


def pair(batch: Any) -> Any:
    return batch[:2]


def test_modules_of_the_other_package(tmp_path: Path) -> None:
    module = Plain()
    callback = prune(model="network", loss="compare", pair=pair, distill=0.1, round_to=2)
    trainer(tmp_path, callback, package=lightning.pytorch, max_epochs=2).fit(module)
    assert callback.pruned is not None and callback.pruned.macs <= 0.5 * callback.pruned.dense_macs
    assert all(left % 2 == 0 for left, _ in callback.pruned.kept.values())
    resumed = Plain()
    callback = prune(model="network", loss="compare", pair=pair, distill=0.1, round_to=2)
    again = trainer(tmp_path / "again", callback, package=lightning.pytorch, max_epochs=2)
    again.fit(resumed, ckpt_path=tmp_path / "kept" / "epoch=0.ckpt")
    assert same(weights(module), weights(resumed))
    assert module.compare is pit_neg_si_sdr


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"model": "network"}, None, ""),
        ({}, InputError, "Plain has no model called 'model' to prune. Its parts are: network"),
        ({"model": "network", "loss": "los"}, InputError, "Plain has no loss called 'los'"),
        ({"model": "network", "pair": None}, DataError, "batch is a list of 3, and what is needed"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, Any], error: Any, text: str
) -> None:
    module, options = Plain(), {"loss": pit_neg_si_sdr, "pair": pair, **options}
    run = trainer(tmp_path, prune(**options), package=lightning.pytorch, fast_dev_run=True)
    if error is None:
        run.fit(module)
    else:
        with pytest.raises(error, match=text.replace("(", r"\(")):
            run.fit(module)
    assert "on_load_checkpoint" not in vars(module)


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"budget is 0\.5; give a Budget"):
        PruneCallback(0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="search_steps must be at least 1"):
        prune(search_steps=0)
    with pytest.raises(InputError, match="give its name, loss='name'"):
        prune(distill=0.5, loss=pit_neg_si_sdr)
    averaging = pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-2)
    with pytest.raises(InputError, match="StochasticWeightAveraging averages weights"):
        trainer(tmp_path, prune(), averaging).fit(system())


def test_trainers_that_cannot_go_on_are_refused() -> None:
    class Sharded:
        restore_checkpoint_after_setup = True

    class Spawned:
        restore_checkpoint_after_setup, _start_method, configure_ddp = False, "spawn", None

    for strategy, text in ((Sharded(), "spreads a model"), (Spawned(), "copies of this process")):
        given = SimpleNamespace(strategy=strategy, world_size=2, callbacks=[])
        with pytest.raises(InputError, match=f"under {type(strategy).__name__}.*{text}"):
            check_trainer(given)


def test_importing_it_imports_no_lightning() -> None:
    code = (
        "import sys, sepprune_tp.lightning\n"
        "names = ('lightning', 'pytorch_lightning', 'asteroid')\n"
        "assert not [name for name in names if name in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=100)


# -- two processes --------------------------------------------------------------------------------

SCRIPT = """
import sys, torch, pytorch_lightning as pl
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_lightning_callback as t

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
