"""Fine-tuning a pruned separator until it separates again: resumable, best and not last kept.

Letters: B batch, S sources, T time. SI-SDR and the loss are in dB.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import training_mode
from sepprune_tp._unwrap import unwrapped
from sepprune_tp.distillation import Distillation, dismissed
from sepprune_tp.errors import InputError, require
from sepprune_tp.files.locking import alone_with
from sepprune_tp.graph.lineage import Lineage, lineage_of, note, set_lineage
from sepprune_tp.identity import data_identity, fingerprint, loss_identity
from sepprune_tp.interruption import Stop, stoppable
from sepprune_tp.launching import launch, launched, processes_for
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.recovery.data import Loader, TrainStream, ValidationBatches
from sepprune_tp.recovery.settings import RecoverySettings
from sepprune_tp.recovery.state import RunState
from sepprune_tp.search.sharing import Part

__all__ = ["RecoveryResult", "finetune", "fingerprint"]

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RecoveryResult:
    """What a fine-tuning came to.

    Attributes:
        si_sdr: Mean validation SI-SDR of the weights that the model now holds, in dB.
        steps: Optimiser steps taken, those before a resume included.
        seconds: Wall-clock time, that before a resume included.
        stopped: Why it ended: ``"steps"``, ``"early_stop"`` or ``"max_minutes"``.
        history: One record per validation: ``step``, ``seconds``, ``lr``, ``val_loss``,
            ``si_sdr`` and, but for the first, which is of the weights before any step,
            ``train_loss``, the mean since the last one.
    """

    si_sdr: float
    steps: int
    seconds: float
    stopped: str
    history: list[dict[str, float]] = field(default_factory=list)


def finetune(
    model: nn.Module,
    train: Loader,
    val: Loader,
    *,
    loss: Loss = pit_neg_si_sdr,
    batch_size: int = 8,
    checkpoint_dir: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int | str = 1,
    **settings: Any,
) -> RecoveryResult:
    """Train a separator in place with Lightning and leave it with its best weights.

    A run that was killed resumes from the last validation in ``checkpoint_dir``, or from a minute
    before (one device), and ends with the same weights, bit for bit, on the same machine: batches
    and dropout are functions of the step.
    One that is interrupted (Ctrl-C, SIGTERM) ends its step, or the validation that it is in, and
    resumes from there; a second signal ends it at once.

    Several devices share every batch, so that they end where one does but for rounding (dropout,
    and the statistics of batch norms, are each device's own). They run in processes that are
    started here and get copies of all arguments, unless this process is one of several already
    (torchrun, Fabric): then each of them calls this function.

    Args:
        model: Maps a mixture ``(B, T)`` to estimates ``(B, S, T)``. Trained in training mode, but
            for parts in eval mode of a model that is in training mode (frozen batch norms).
            Returned on the device and in the modes that it came in.
        train: A map-style data set of (mixture ``(T,)``, sources ``(S, T)``), read in an order
            drawn from the seed; or a re-iterable of batches (mixture ``(B, T)``, sources
            ``(B, S, T)``), read in its own order again and again.
        val: Likewise; read in its own order, once per validation.
        loss: ``(estimates, sources) -> scalar``, lower is better; also what validation compares. Of
            a :class:`~sepprune_tp.distillation.Distillation`, validation compares the task alone.
        batch_size: B, for map-style data; of all devices together.
        checkpoint_dir: Where to keep ``last.pt`` (to resume from) and ``best.pt`` (weights).
        resume: Go on from ``checkpoint_dir`` if it holds a run of this model and settings.
        progress: Show a progress bar on standard error.
        accelerator: Lightning's choice of hardware.
        devices: Lightning's number of devices.
        **settings: Fields of :class:`RecoverySettings`: ``steps``, ``lr``, ``clip``, ``schedule``,
            ``patience``, ``factor``, ``early_stop``, ``val_every``, ``seed``, ``precision``,
            ``compile``, ``max_minutes``.

    Returns:
        The best validation SI-SDR, steps, seconds and history.

    Raises:
        InputError: If a setting, or the shape of a batch or of the model's output, is wrong, or
            devices cannot share a batch evenly.
        DataError: If a loader is empty or a batch holds NaN or infinity.
        SearchError: If the loss stops being finite; the message names the step.
        CheckpointError: If ``checkpoint_dir`` holds a run of another model, other settings, data or
            loss.
        BusyError: If another process fine-tunes with the same ``checkpoint_dir``.
        KeyboardInterrupt: If the user interrupts it.
        MissingExtraError: If Lightning is not installed.
    """
    with warnings.catch_warnings():  # Lightning's imports warn about their own dependencies
        warnings.simplefilter("ignore")
        require("lightning", "train", "Recovery")
        from sepprune_tp.recovery import loop

    chosen = _settings(settings)
    if isinstance(loss, Distillation):
        loss.check_training(chosen.compile)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has no parameter that requires a gradient, so there is "
            "nothing to fine-tune. Call model.requires_grad_(True) first."
        )
    if not launched() and (count := processes_for(devices, accelerator)) > 1:
        TrainStream(train, batch_size, chosen.seed).check_part(Part(0, count))
        given = {
            "loss": loss,
            "batch_size": batch_size,
            "checkpoint_dir": checkpoint_dir,
            "resume": resume,
            "progress": progress,
            **settings,
        }
        return _elsewhere(model, train, val, given, devices, accelerator)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    identity = {
        "batch_size": batch_size,
        "train": data_identity(train),
        "val": data_identity(val),
        "loss": loss_identity(loss),
    }
    device = next(model.parameters()).device
    stream = TrainStream(train, batch_size, chosen.seed)
    validation = ValidationBatches(val, batch_size)
    with ExitStack() as stack:
        # first of all, since a signal may end the process when it is left
        stop = Stop() if folder is None else stack.enter_context(stoppable())
        if folder is not None and Part.mine().rank == 0 and loop.is_first():
            stack.enter_context(alone_with(folder / "last.pt"))
        now = (model, asdict(chosen), fingerprint(model))
        state = RunState.begin(*now, folder, resume, identity)
        stack.callback(model.to, device)
        stack.enter_context(training_mode(model))
        stack.enter_context(dismissed(loss))
        stack.enter_context(loop.quiet())
        stack.enter_context(loop.forked_rng())
        shown = progress and loop.is_first()
        bar = stack.enter_context(loop.progress_bar(chosen.steps, state.step, shown))
        module = loop.RecoveryModule(model, loss, chosen, state, folder, stream, bar, stop)
        loop.run(module, validation, accelerator, devices)
    model.load_state_dict(state.best)
    model.zero_grad(set_to_none=True)
    best = min(state.history, key=lambda record: record["val_loss"])
    figures = {"si_sdr": best["si_sdr"], "steps": state.step, "seconds": state.seconds}
    how = {"batch_size": batch_size, "loss": identity["loss"], "settings": asdict(chosen)}
    note(unwrapped(model), "recovered", **figures, **how)
    return RecoveryResult(
        si_sdr=best["si_sdr"],
        steps=state.step,
        seconds=state.seconds,
        stopped=state.stopped,
        history=[dict(record) for record in state.history],
    )


def _elsewhere(
    model: nn.Module,
    train: Loader,
    val: Loader,
    given: dict[str, Any],
    devices: int | str,
    accelerator: str,
) -> RecoveryResult:
    """Fine-tune copies in new processes, and give the model their weights."""
    copied = copy.deepcopy(model).cpu()
    given |= {"devices": devices, "accelerator": accelerator}
    found = launch(_copy, copied, train, val, given, devices=devices, accelerator=accelerator)
    result, weights, lineage = found
    model.load_state_dict(weights)
    set_lineage(model, lineage)
    return result


def _copy(
    device: torch.device, model: nn.Module, train: Loader, val: Loader, given: dict[str, Any]
) -> tuple[RecoveryResult, dict[str, Any], Lineage | None]:
    """What each process does; Lightning moves the model to its device."""
    result = finetune(model, train, val, **given)
    return result, model.state_dict(), lineage_of(model)


def _settings(values: dict[str, Any]) -> RecoverySettings:
    """Settings from keywords; an unknown one is an error that lists the known ones."""
    known = RecoverySettings.__dataclass_fields__
    if unknown := sorted(set(values) - set(known)):
        raise InputError(
            f"Unknown setting(s) of finetune: {', '.join(unknown)}. Known: {', '.join(known)}."
        )
    steps = values.get("steps", RecoverySettings.steps)
    defaults = RecoverySettings(val_every=max(1, min(RecoverySettings.val_every, steps)))
    return replace(defaults, **values)
