"""Pruning inside a Lightning training: what changes, what stays, what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="needs the extra 'train'")
pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'asteroid'")
pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

import lightning  # noqa: E402
from lightning_cases import (  # noqa: E402
    HALF,
    ROOT,
    TIME,
    check_optimiser,
    prune,
    rows,
    same,
    separator,
    system,
    tones,
    trainer,
    weights,
)

from sepprune_tp import (  # noqa: E402
    Budget,
    GateSet,
    learn_gates,
    profile,
)
from sepprune_tp.errors import BudgetError, DataError, InputError  # noqa: E402
from sepprune_tp.job import cut  # noqa: E402
from sepprune_tp.lightning import PruneCallback, load_weights  # noqa: E402
from sepprune_tp.lightning.trainers import check_trainer  # noqa: E402
from sepprune_tp.losses import pit_neg_si_sdr  # noqa: E402


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
