"""The Lightning side of recovery: one epoch is the steps between two validations."""

from __future__ import annotations

import importlib.util
import logging
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from sepprune_tp.distillation import announce, task_of
from sepprune_tp.errors import CheckpointError, DataError, InputError, SearchError, require
from sepprune_tp.files.states import load_adam, load_plateau
from sepprune_tp.interruption import Stop
from sepprune_tp.launching import launched
from sepprune_tp.losses import pit_si_sdr
from sepprune_tp.recovery.data import Batch, TrainStream, ValidationBatches
from sepprune_tp.recovery.settings import RecoverySettings, cosine_rate
from sepprune_tp.recovery.state import RunState, copied, unusable
from sepprune_tp.search.progress import StepBar, progress_line
from sepprune_tp.search.sharing import Part

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["RecoveryModule", "forked_rng", "is_first", "progress_bar", "quiet", "run"]


_SECONDS = 60.0  # between writes at most, where one device decides


class Stopped(Exception):
    """The user wants an end, and the state is written."""


class RecoveryModule(lightning.LightningModule):
    """Trains a model by its state; validation decides on rate, best weights and the end."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        settings: RecoverySettings,
        state: RunState,
        folder: Path | None,
        stream: TrainStream,
        bar: Any,
        stop: Stop,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.settings, self.state = model, loss, settings, state
        self.folder, self.stream, self.bar, self.stop = folder, stream, bar, stop
        self.train_forward: Callable[[Tensor], Tensor] = (
            torch.compile(model.forward, dynamic=False) if settings.compile else model
        )
        self._saved = time.monotonic()
        self._began = self._saved - state.seconds
        self._losses: list[float] = list(state.losses) if is_first() else []
        self._validation: list[tuple[int, float, float]] = []
        self._plateau: ReduceLROnPlateau | None = None

    def seconds(self) -> float:
        """Wall-clock time of the run, with that before a resume; that of the first device."""
        now = time.monotonic() - self._began
        if self.settings.max_minutes is None or self.stream.part.count == 1:
            return now
        return float(self.trainer.strategy.broadcast(now))  # it decides: all have to agree

    def finished(self) -> str:
        """Why to end, or an empty string."""
        minutes = self.settings.max_minutes
        if self.state.step >= self.settings.steps:
            return "steps"
        if minutes is not None and self.seconds() >= 60 * minutes:
            return "max_minutes"
        limit = self.settings.early_stop
        return "early_stop" if limit and self.state.stale >= limit else ""

    def train_batches(self) -> Iterator[Batch]:
        """One epoch: the batches up to the next validation."""
        step = self.state.step
        last = self._next_validation()
        while step < last:
            yield self.stream.batch(step)
            step += 1
            minutes = self.settings.max_minutes
            if minutes is not None and self.seconds() >= 60 * minutes:
                return

    def _next_validation(self) -> int:
        """The step after which to validate."""
        validated = int(self.state.history[-1]["step"]) if self.state.history else 0
        return min(validated + self.settings.val_every, self.settings.steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, in the state that it was left in, and the plateau rule."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.settings.lr)
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=self.settings.factor,
            patience=self.settings.patience,
            threshold=1e-3,
            threshold_mode="abs",
        )
        if self.state.optimizer:
            try:
                load_adam(optimizer, self.state.optimizer)
                load_plateau(self._plateau, self.state.plateau)
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(unusable(self.folder, error)) from error
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set what a step depends on: the random state, and the rate of a cosine."""
        own = self.global_rank << 52  # dropout differs between the parts of a batch
        torch.manual_seed((self.settings.seed << 32) + self.state.step ^ own)
        if self.settings.schedule == "cosine":
            minutes = self.settings.max_minutes
            progress = self.state.step / self.settings.steps
            if minutes is not None:
                progress = max(progress, self.seconds() / (60 * minutes))
            for group in self._optimizer().param_groups:
                group["lr"] = cosine_rate(self.settings.lr, progress)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        mixture, sources = batch
        announce(self.loss, mixture, self.model)
        value = self.loss(self.train_forward(mixture), sources)
        self._losses.append(value.item())
        if not torch.isfinite(value):
            self._report_not_finite(batch, "training")
        return value

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the step; give way to the user, who wants an end (a validation comes first)."""
        self.state.step += 1
        self.bar.update(1)
        self.bar.set_postfix_str(f"loss {self._losses[-1]:.2f} dB", refresh=False)
        if self.state.step >= self._next_validation():
            return
        late = self.stream.part.count == 1 and time.monotonic() - self._saved > _SECONDS
        if (ending := self._wants_end()) or late:
            self._note_training()
            self.state.seconds, self.state.losses = self.seconds(), list(self._losses)
            self._save()
        if ending:
            raise Stopped

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and SI-SDR of one batch."""
        mixture, sources = batch
        estimates = self.model(mixture)
        value = task_of(self.loss)(estimates, sources)
        if not torch.isfinite(value):
            self._report_not_finite(batch, "validation")
        ratio = float("nan")
        if estimates.shape == sources.shape:
            ratio = pit_si_sdr(estimates, sources)[0].mean().item()
        self._validation.append((len(mixture), value.item(), ratio))

    def on_validation_epoch_end(self) -> None:
        """Record, step the plateau rule, keep the best, save, and decide whether to go on."""
        record = self._record()
        previous = min((r["val_loss"] for r in self.state.history), default=float("inf"))
        self.state.history.append(record)
        self.state.stale += 1
        if record["val_loss"] < previous:
            self.state.best, self.state.stale = copied(self.model.state_dict()), 0
        if self._plateau is not None and self.state.step:
            if self.settings.schedule == "plateau":
                self._plateau.step(record["val_loss"])
            self._note_training()
        self.state.seconds, self.state.losses = self.seconds(), []
        self.state.stopped = self.finished()
        self._save()
        self.trainer.should_stop = bool(self.state.stopped)
        self.bar.set_description_str(f"recovery, SI-SDR {record['si_sdr']:.2f} dB", refresh=False)
        if self._wants_end() and not self.state.stopped:
            raise Stopped

    def _note_training(self) -> None:
        """Take over what optimiser and rate rule hold."""
        assert self._plateau is not None
        self.state.optimizer = self._optimizer().state_dict()
        self.state.plateau = self._plateau.state_dict()

    def _save(self) -> None:
        if self.folder is not None and self.trainer.is_global_zero:
            self.state.weights = copied(self.model.state_dict())
            self.state.save(self.folder)
        self._saved = time.monotonic()

    def _wants_end(self) -> bool:
        """Whether a signal came, on any device."""
        return self._over_devices([float(bool(self.stop))])[0] > 0

    def _record(self) -> dict[str, float]:
        """The figures of this validation, and an empty slate for the next."""
        sums = self._over_devices(
            [
                sum(count for count, _, _ in self._validation),
                sum(count * loss for count, loss, _ in self._validation),
                sum(count * ratio for count, _, ratio in self._validation),
                sum(self._losses),
                len(self._losses),
            ]
        )
        weight, losses, ratios, trained, steps = sums
        if not weight:
            raise DataError("The val loader gave no batch; recovery needs at least one.")
        rate = self._optimizer().param_groups[0]["lr"] if self._plateau else self.settings.lr
        record = {
            "step": self.state.step,
            "seconds": round(self.seconds(), 1),
            "lr": rate,
            "val_loss": losses / weight,
            "si_sdr": ratios / weight,
        }
        if steps:
            record["train_loss"] = trained / steps
        self._validation, self._losses = [], []
        return record

    def _over_devices(self, values: list[float]) -> list[float]:
        """Sums over all devices."""
        if self.stream.part.count == 1:
            return values
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        found: list[float] = self.trainer.strategy.reduce(own, reduce_op="sum").tolist()
        return found

    def _optimizer(self) -> torch.optim.Optimizer:
        """The one optimiser."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _report_not_finite(self, batch: Batch, stage: str) -> None:
        """Say whether the data or the model is to blame."""
        where = f"in {stage} at step {self.state.step}"
        if not all(torch.isfinite(part).all() for part in batch):
            raise DataError(
                f"The batch {where} holds NaN or infinity. Leave out the recording that it comes "
                "from."
            )
        raise SearchError(
            f"The loss became NaN or infinite {where} although the batch is finite. Lower lr (now "
            f"{self.settings.lr}), or clip (now {self.settings.clip}), or use precision='32'."
        )


class _Epochs:
    """What Lightning iterates: a fresh run of batches every epoch, of unknown length."""

    def __init__(self, module: RecoveryModule) -> None:
        self._module = module

    def __iter__(self) -> Iterator[Batch]:
        return self._module.train_batches()


def run(
    module: RecoveryModule, validation: ValidationBatches, accelerator: str, devices: int | str
) -> None:
    """Validate once, then train until the module says that it is finished.

    Raises:
        Interrupted: If a signal came; the state is written if there is a folder.
    """
    if module.state.history and (reason := module.finished()):
        module.state.stopped = reason
        return
    several = launched() and devices not in (1, "1")
    with tempfile.TemporaryDirectory() as root:
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=devices,
            # separators have layers that nothing reads, such as the last residual of Conv-TasNet
            strategy="ddp_find_unused_parameters_true" if several else "auto",
            precision=module.settings.precision,  # type: ignore[arg-type]
            gradient_clip_val=module.settings.clip or None,
            max_epochs=-1,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,
            default_root_dir=root,
        )
        part = Part(trainer.global_rank, trainer.world_size)
        group = Part.mine()
        if group.count > 1 and part != group:
            raise InputError(
                f"finetune runs in {group.count} processes, but devices={devices!r} makes it use "
                f"{part.count}. Give devices= the number of processes of this machine."
            )
        module.stream.part = validation.part = part
        with _interrupted_by(module):
            if not module.state.history:
                trainer.validate(module, dataloaders=validation, verbose=False)
            trainer.should_stop = False
            trainer.fit(module, train_dataloaders=_Epochs(module), val_dataloaders=validation)


@contextmanager
def _interrupted_by(module: RecoveryModule) -> Iterator[None]:
    """Raise what users expect of Ctrl-C, where Lightning would leave the program."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
        if module.stop:  # it came when everything was done
            raise Stopped
    except (Stopped, SystemExit) as error:
        first = error.__context__
        if not (isinstance(error, Stopped) or module.stop or isinstance(first, KeyboardInterrupt)):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # which Lightning ignores from then on
        state, settings = module.state, module.settings
        text = f"step {state.step} of {settings.steps} of the recovery"
        kept = f" is in {module.folder}" if isinstance(error, Stopped) and module.folder else ""
        raise module.stop.reason(f"{text}{kept}") from error


def is_first() -> bool:
    """Whether this is the process that shows progress."""
    return not getattr(rank_zero_only, "rank", 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning prints and warns about, and nothing else."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning(\..*)?")
            warnings.filterwarnings("ignore", message=r"(?s).*isinstance\(treespec, LeafSpec\).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def forked_rng() -> Iterator[None]:
    """Leave the random state of the CPU and of the current GPU as it was."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def progress_bar(total: int, initial: int, shown: bool) -> Iterator[Any]:
    """A bar over steps: of rich on a terminal if it is there, else of tqdm, as Lightning has it."""
    if shown and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with progress_line("recovery", total, start=initial) as show:
            yield StepBar(show, initial)
        return
    tqdm = require("tqdm", "train", "A progress bar")
    bar = tqdm.tqdm(
        total=total,
        initial=initial,
        disable=not shown,
        desc="recovery",
        unit="step",
        mininterval=1.0 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )
    try:
        yield bar
    finally:
        bar.close()
