"""``PruneCallback``: learn gates, prune and recover inside a training that exists already."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of
from sepprune_tp.checkpoint.form import form_of, give_form, tensors_of
from sepprune_tp.errors import CheckpointError, InputError
from sepprune_tp.files.extent import short
from sepprune_tp.gates import GateSet
from sepprune_tp.graph import Scope
from sepprune_tp.job import channels_kept, cut
from sepprune_tp.lightning.bases import callback_class
from sepprune_tp.lightning.checkpoints import KEY, ModuleHooks, model_in, reshape
from sepprune_tp.lightning.optimisers import ParameterNames
from sepprune_tp.lightning.sampling import Pair, SearchBatches, as_it_was, some_mixtures
from sepprune_tp.lightning.summary import Pruned
from sepprune_tp.lightning.teaching import Teaching
from sepprune_tp.lightning.trainers import (
    autocast_of,
    check_trainer,
    forget_scores,
    modes_kept,
    tell,
    wrap_anew,
)
from sepprune_tp.search import Budget, SearchResult, learn_gates
from sepprune_tp.search.ranking import smallest
from sepprune_tp.search.rounding import RoundTo

if TYPE_CHECKING:
    from typing import Self

__all__ = ["PruneCallback"]

Loss = Callable[[Tensor, Tensor], Tensor]
FIT_MIXTURES = 32  # that least squares sees


class PruneCallback:
    """Prunes the model of a LightningModule at the start of an epoch; the training recovers it.

    It learns gates on the trainer's own training batches with the module's loss (in all processes
    of a DDP training together), removes the channels that they close, reconstructs what is left by
    least squares, gives the optimisers the new parameters, and lets the trainer go on. Modules and
    trainers of ``lightning`` and of ``pytorch_lightning`` do, Asteroid's ``System`` among them.

    Checkpoints hold the shape of the model: ``trainer.fit(system, ckpt_path=...)``, around the
    dense model, goes on with the pruned one and does not search again.
    :func:`~sepprune_tp.lightning.load_weights` loads them without a trainer. Batches and random
    states of the training are what they are without the search. A search that is killed starts
    again with the run.

    Attributes:
        pruned: What was done; None before.
        search: How the gates were learned, step by step; None before, and in a run that went on.
    """

    pruned: Pruned | None
    search: SearchResult | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make a callback of those of Lightning's packages that are imported."""
        return object.__new__(callback_class(cls) if cls is PruneCallback else cls)

    def __init__(
        self,
        budget: Budget,
        *,
        search_steps: int = 500,
        at_epoch: int = 0,
        scope: Scope = "separator",
        reconstruct: bool = True,
        lookahead: bool | None = None,
        distill: float = 0.0,
        loss: str | Loss = "loss_func",
        model: str = "model",
        pair: Pair | None = None,
        lr: float = 0.1,
        seed: int = 0,
        round_to: RoundTo = 1,
        progress: bool = True,
    ) -> None:
        """Say how to prune.

        Args:
            budget: Of the pruned model; MACs are counted on the first training mixture.
            search_steps: Batches that the gates are learned on; the weights do not change.
            at_epoch: Prune at the start of this epoch, counted from 0. Best scores of the dense
                model, which checkpoints, early stopping and schedulers remember, are forgotten.
            scope: ``"separator"``, ``"all"`` or modules of the model.
            reconstruct: Whether least squares gives the layers that lost inputs new weights.
            lookahead: Whether to look for the channels that are best after that; None: if so.
            distill: Weight of a comparison with the dense model's estimates, which is added to the
                loss of training steps; its weights are kept in checkpoints. 0: none.
            loss: Name of the module's loss ``(estimates, sources) -> scalar``, a mean over
                mixtures; or another for the gates.
            model: Name of the module's model, mixtures (B, T) -> estimates (B, S, T).
            pair: Makes (mixture, sources) of a training batch that holds something else.
            lr: Learning rate of the gates.
            seed: Of the gates.
            round_to: Widths are multiples of this, or ``"auto"``.
            progress: Whether the search shows a progress bar.

        Raises:
            InputError: If a value cannot work.
            MissingExtraError: If Lightning is not installed.
        """
        super().__init__()
        if not isinstance(budget, Budget):
            raise InputError(
                f"budget is {budget!r}; give a Budget: PruneCallback(Budget(macs=0.5))."
            )
        if search_steps < 1 or at_epoch < 0 or distill < 0:
            raise InputError(
                "search_steps must be at least 1, at_epoch and distill at least 0; got "
                f"{search_steps}, {at_epoch} and {distill}."
            )
        if distill and not isinstance(loss, str):
            raise InputError(
                f"distill={distill} adds to the module's own loss: give its name, loss='name', "
                "rather than a function."
            )
        self.budget, self.search_steps, self.at_epoch = budget, search_steps, at_epoch
        self.scope, self.reconstruct, self.distill = scope, reconstruct, float(distill)
        self.lookahead = reconstruct if lookahead is None else lookahead
        self.loss, self.model, self.pair = loss, model, pair
        self.lr, self.seed, self.round_to, self.progress = lr, seed, round_to, progress
        self.pruned = self.search = None
        self._of: weakref.ref[nn.Module] | None = None
        self._dense: nn.Module | None = None
        self._before: ParameterNames | None = None
        self._hooks: ModuleHooks | None = None
        self._teaching: Teaching | None = None

    @property
    def state_key(self) -> str:
        """Its name among the callbacks of a trainer."""
        return "sepprune_tp.PruneCallback"

    # -- checkpoints ------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Prepare to read and write checkpoints of pruned models."""
        check_trainer(trainer)
        model = model_in(pl_module, self.model)
        if stage == "fit" and (self._of is None or self._of() is not model):
            self.pruned = self.search = self._dense = None  # another model is to be pruned too
            self._of = weakref.ref(model)
        self._before = None
        self._hooks = ModuleHooks(
            pl_module,
            lambda checkpoint: self._load(pl_module, checkpoint),
            lambda checkpoint: self._save(pl_module, checkpoint),
        )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module without hooks of ours."""
        if self._hooks is not None:
            self._hooks.stop()
        if self._teaching is not None:
            self._teaching.stop()
        self._hooks = self._teaching = self._before = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Likewise, where a training ends early."""
        self.teardown(trainer, pl_module, "fit")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the shape of the model, also after the training."""
        self._save(pl_module, checkpoint)

    def _save(self, module: Any, checkpoint: dict[str, Any]) -> None:
        content: dict[str, Any] = {"form": form_of(model_in(module, self.model))}
        if self.pruned is not None:
            content["pruned"] = asdict(self.pruned)
        if self._dense is not None:
            content["dense"] = {"form": form_of(self._dense), "tensors": tensors_of(self._dense)}
        checkpoint[KEY] = content

    def _load(self, module: Any, checkpoint: dict[str, Any]) -> None:
        content = checkpoint.get(KEY, {})
        model = model_in(module, self.model)
        self.pruned = self._dense = None
        try:
            self.pruned = Pruned(**content["pruned"]) if "pruned" in content else None
            if "dense" in content and self.distill:
                teacher, dense = _teacher(model), content["dense"]
                give_form(teacher, dense["form"], dense["tensors"])
                teacher.load_state_dict(dense["tensors"], strict=False)
                self._dense = teacher
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"What PruneCallback left in the checkpoint cannot be read ({short(error)}): it "
                "was damaged, or another version wrote it. Start from another checkpoint."
            ) from error
        self._before = reshape(module, self.model, checkpoint)

    # -- training ---------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the parameters of a loaded shape to optimisers that were made before."""
        if self._before is not None:
            for optimizer in trainer.optimizers:
                self._before.renew(optimizer, pl_module)
        self._before = None
        self._teach(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a budget that cannot be met before the epochs that come before pruning."""
        if self.pruned is not None or trainer.current_epoch >= self.at_epoch:
            return
        with as_it_was(trainer.train_dataloader), modes_kept(pl_module):
            example = some_mixtures(self._batches(trainer), 1)[0]
            gates = self._gates(trainer, pl_module, example)
            limits = self.budget.limits(gates)
            limits.check_reachable(smallest(gates.groups), len(gates.groups), measure=False)
        self._loss_of(pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Prune, if it is time."""
        if self.pruned is None and trainer.current_epoch >= self.at_epoch:
            self._prune(trainer, pl_module)

    def _prune(self, trainer: Any, module: Any) -> None:
        before = ParameterNames(module)
        if self.distill:
            self._dense = _teacher(model_in(module, self.model))
        with as_it_was(trainer.train_dataloader), modes_kept(module):
            batches = self._batches(trainer)
            mixtures = some_mixtures(batches, FIT_MIXTURES if self.reconstruct else 1)
            gates = self._learn(trainer, module, batches, mixtures[0][:1])
            dense, left = gates.cost_model.dense, gates.cost()
            kept = {name: list(pair) for name, pair in channels_kept(gates).items()}
            with torch.enable_grad():
                cut(gates, mixtures if self.reconstruct else [])
        for optimizer in trainer.optimizers:
            before.renew(optimizer, module)
        wrap_anew(trainer)
        forget_scores(trainer)
        epoch = trainer.current_epoch
        self.pruned = Pruned(epoch, left.params, left.macs, dense.params, dense.macs, kept)
        assert self.search is not None
        for logger in trainer.loggers:
            for step, record in enumerate(self.search.history):
                logger.log_metrics({f"prune/search_{k}": v for k, v in record.items()}, step=step)
            logger.log_metrics(self.pruned.metrics(), step=trainer.global_step)
        tell(trainer, str(self.pruned))
        self._teach(module)

    def _batches(self, trainer: Any) -> SearchBatches:
        convert, limit = trainer.precision_plugin.convert_input, trainer.num_training_batches
        return SearchBatches(trainer.train_dataloader, self.pair, convert, limit)

    def _gates(self, trainer: Any, module: Any, example: Tensor) -> GateSet:
        """Gates on the module's model; all processes count MACs on the example of the first."""
        model = model_in(module, self.model)
        example = trainer.strategy.broadcast(example.cpu()).to(device_of(model))
        return GateSet(model, example, scope=self.scope)

    def _learn(self, trainer: Any, module: Any, batches: SearchBatches, example: Tensor) -> GateSet:
        """Gates with masks that meet the budget, the same in all processes."""
        gates = self._gates(trainer, module, example)
        self.search = learn_gates(
            gates,
            batches,
            self._loss_of(module),
            budget=self.budget,
            steps=self.search_steps,
            lr=self.lr,
            seed=self.seed,
            autocast=autocast_of(trainer),
            progress=self.progress and bool(trainer.is_global_zero),
            round_to=self.round_to,
            lookahead=self.lookahead,
        )
        return gates

    def _loss_of(self, module: Any) -> Loss:
        """What the gates are learned with."""
        loss = getattr(module, self.loss, None) if isinstance(self.loss, str) else self.loss
        if not callable(loss):
            raise InputError(
                f"{type(module).__name__} has no loss called '{self.loss}' to learn gates with. "
                "Give the name of its loss, or a function (estimates, sources) -> scalar: "
                "PruneCallback(..., loss=pit_neg_si_sdr) with the one of sepprune_tp.losses."
            )
        found: Loss = loss
        return found

    def _teach(self, module: Any) -> None:
        if self.distill and self._dense is not None and self._teaching is None:
            student = model_in(module, self.model)
            assert isinstance(self.loss, str)
            self._teaching = Teaching(module, student, self._dense, self.loss, self.distill)


def _teacher(model: nn.Module) -> nn.Module:
    """A frozen copy."""
    return copy.deepcopy(model).eval().requires_grad_(False)
