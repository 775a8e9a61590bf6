"""Small Lightning trainings, as recipes of Asteroid make them, and what is compared of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="needs the extra 'train'")
pl = pytest.importorskip("pytorch_lightning", reason="needs the extra 'asteroid'")
models = pytest.importorskip("asteroid.models", reason="needs the extra 'asteroid'")

from asteroid.engine.system import System  # noqa: E402
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr  # noqa: E402

from sepprune_tp import Budget  # noqa: E402
from sepprune_tp.lightning import PruneCallback  # noqa: E402

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
