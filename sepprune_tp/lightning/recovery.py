"""``Recovery``: fine-tuning a pruned model as a LightningModule, for a trainer of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sepprune_tp._unwrap import unwrapped
from sepprune_tp.checkpoint.form import form_of
from sepprune_tp.distillation import announce, task_of
from sepprune_tp.errors import InputError
from sepprune_tp.lightning.bases import OfOnePackage
from sepprune_tp.lightning.checkpoints import KEY, reshape
from sepprune_tp.lightning.sampling import Pair, as_pair
from sepprune_tp.losses import MAX_SOURCES, pit_neg_si_sdr, pit_si_sdr
from sepprune_tp.search.steps import Loss

__all__ = ["Recovery"]


class Recovery(OfOnePackage):
    """Trains a pruned separator in ``Trainer.fit``, as the paper does.

    Everything but the step is the trainer's: epochs, devices, precision, accumulation, clipping
    (the paper: ``Trainer(gradient_clip_val=5)``), checkpoints, early stopping, loggers. It logs
    ``train_loss``, ``val_loss`` and ``val_si_sdr`` (dB). Checkpoints hold the shape of the model:
    ``fit(Recovery(dense_model), ckpt_path=...)`` goes on with the pruned one.
    :func:`~sepprune_tp.recovery.finetune` is the same with an end, the best weights and bitwise
    resuming. A recipe's own module, such as Asteroid's ``System``, takes a pruned model as well.

    Example::

        Trainer(max_epochs=10, gradient_clip_val=5).fit(Recovery(model), train_loader, val_loader)

    Attributes:
        model: The separator.
    """

    if TYPE_CHECKING:  # Lightning's, of either package
        trainer: Any
        log: Any

    def __init__(
        self,
        model: nn.Module,
        loss: Loss = pit_neg_si_sdr,
        *,
        lr: float = 1e-3,
        patience: int = 15,
        factor: float = 0.5,
        pair: Pair | None = None,
        package: str | None = None,
    ) -> None:
        """Say how to train.

        Args:
            model: The separator, mixtures (B, T) -> estimates (B, S, T).
            loss: (estimates (B, S, T), sources (B, S, T)) -> scalar, such as
                ``Distillation(dense)``.
            lr: Adam's learning rate.
            patience: Validations without improvement after which it is multiplied by ``factor``;
                without a validation loader it stays.
            factor: Between 0 and 1.
            pair: Makes (mixture, sources) of a batch that holds something else.
            package: ``"lightning"`` or ``"pytorch_lightning"``, whose trainer is to take it; None:
                the one that is imported, and of both ``pytorch_lightning``, which is Asteroid's.

        Raises:
            InputError: If a value cannot work.
            MissingExtraError: If Lightning is not installed.
        """
        super().__init__()
        if not (lr > 0 and patience >= 0 and 0 < factor < 1):
            raise InputError(
                "lr must be above 0, patience at least 0 and factor between 0 and 1, got "
                f"{lr}, {patience} and {factor}."
            )
        self.model, self.loss = unwrapped(model), loss
        self._lr, self._patience, self._factor, self._pair = lr, patience, factor, pair

    def forward(self, mixture: Tensor) -> Tensor:
        """Separate mixtures (B, T): estimates (B, S, T)."""
        estimates: Tensor = self.model(mixture)
        return estimates

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        mixture, sources = as_pair(batch, self._pair, "Recovery")
        announce(self.loss, mixture, self.model)
        value = self.loss(self.model(mixture), sources)
        self.log("train_loss", value, prog_bar=True, batch_size=len(mixture))
        return value

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the task's loss, and SI-SDR where the loss compares waveforms."""
        mixture, sources = as_pair(batch, self._pair, "Recovery")
        estimates = self.model(mixture)
        told = {"batch_size": len(mixture), "sync_dist": True}
        self.log("val_loss", task_of(self.loss)(estimates, sources), prog_bar=True, **told)
        if estimates.shape == sources.shape and sources.shape[1] <= MAX_SOURCES:
            self.log("val_si_sdr", pit_si_sdr(estimates.float(), sources)[0].mean(), **told)

    def configure_optimizers(self) -> Any:
        """Adam, and a rate that falls where validations stop to improve."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self._lr)
        if not self.trainer.enable_validation:
            return optimizer
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=self._factor, patience=self._patience
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "strict": False},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the shape of the model."""
        checkpoint[KEY] = {"form": form_of(self.model)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the shape that the weights have.

        Raises:
            CheckpointError: If the checkpoint is of another model.
        """
        reshape(self, "model", checkpoint)  # type: ignore[arg-type]
