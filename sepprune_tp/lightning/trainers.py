"""What pruning asks of a trainer, of either package."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sepprune_tp.errors import InputError

__all__ = ["autocast_of", "check_trainer", "forget_scores", "modes_kept", "tell", "wrap_anew"]


def check_trainer(trainer: Any) -> None:
    """Refuse trainers that cannot go on with a model of another shape.

    Raises:
        InputError: If processes hold parts of the model or are copies that end with the training,
            or weights are averaged.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    advice = "Use one device, or Trainer(devices=N, strategy='ddp')."
    several = trainer.world_size > 1 and not hasattr(strategy, "configure_ddp")
    if several or strategy.restore_checkpoint_after_setup:
        raise InputError(
            f"PruneCallback cannot prune under {name}, which spreads a model over processes or "
            f"wraps it in a way that cannot be made anew. {advice}"
        )
    if getattr(strategy, "_start_method", "popen") != "popen":
        raise InputError(
            f"PruneCallback cannot prune under {name} with copies of this process: the model that "
            f"you hold would stay dense and could not take the pruned weights. {advice}"
        )
    averaging = [cb for cb in trainer.callbacks if hasattr(cb, "_average_model")]
    if averaging:
        raise InputError(
            f"{type(averaging[0]).__name__} averages weights with those that it copied before the "
            "model was pruned. Train with it afterwards, in a run of its own."
        )


def autocast_of(trainer: Any) -> torch.dtype | None:
    """The type for the search: that of ``bf16-mixed``; float16 needs a scaler, which it has not."""
    return torch.bfloat16 if trainer.precision == "bf16-mixed" else None


def wrap_anew(trainer: Any) -> None:
    """Let DistributedDataParallel watch the present parameters; all get those of process 0."""
    strategy = trainer.strategy
    if isinstance(strategy.model, DistributedDataParallel):
        strategy.model = trainer.lightning_module
        gc.collect()  # the old one has hooks on parameters that stay
        strategy.configure_ddp()


def forget_scores(trainer: Any) -> None:
    """Let nothing compare the pruned model with the dense one.

    Neither best checkpoints, nor early stopping, nor schedulers that wait for a plateau.
    """
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.best = torch.inf if scheduler.mode == "min" else -torch.inf
            scheduler.num_bad_epochs = 0
    for callback in trainer.callbacks:
        for name in ("best_k_models", "best_model_score", "kth_value", "wait_count", "best_score"):
            if hasattr(callback, name):
                _forget(callback, name)


def _forget(callback: Any, name: str) -> None:
    if name == "best_k_models":
        callback.best_k_models = {}
        callback.best_model_path = callback.kth_best_model_path = ""
    elif name == "wait_count":
        callback.wait_count = 0
    elif name == "best_score":
        lowest = getattr(callback, "mode", "min") == "min"
        callback.best_score = torch.tensor(torch.inf if lowest else -torch.inf)
    else:
        setattr(callback, name, None)


def tell(trainer: Any, text: str) -> None:
    """Say something where the trainer says what it does, once."""
    if trainer.is_global_zero:
        package = type(trainer).__module__.partition(".trainer")[0]
        logging.getLogger(package).info(text)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Leave every part in training or eval mode as it was."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
