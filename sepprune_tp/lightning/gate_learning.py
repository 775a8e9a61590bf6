"""``GateLearning``: the search as a LightningModule, for a trainer of your own."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sepprune_tp._modes import device_of
from sepprune_tp._unwrap import unwrapped
from sepprune_tp.errors import InputError
from sepprune_tp.gates import GateSet, Parametrisation, remember
from sepprune_tp.graph import Scope
from sepprune_tp.identity import fingerprint, loss_identity
from sepprune_tp.lightning.bases import OfOnePackage
from sepprune_tp.lightning.sampling import Pair, as_pair
from sepprune_tp.lightning.trainers import autocast_of
from sepprune_tp.losses import pit_neg_si_sdr
from sepprune_tp.search import Budget, SearchResult
from sepprune_tp.search.batches import checked
from sepprune_tp.search.rounding import RoundTo
from sepprune_tp.search.state import agreeing, content_of, restore
from sepprune_tp.search.steps import Loss, Search

__all__ = ["GateLearning"]

_KEY = "sepprune_tp_search"  # of what a checkpoint holds


class GateLearning(OfOnePackage):
    """Learns gates in ``Trainer.fit``; the masks are set when its steps are done.

    Loggers, checkpoints, devices (DDP: one search of all processes, each with its batches) and
    ``bf16-mixed`` are the trainer's, which ends with the search, whatever its number of epochs; a
    search that ``ckpt_path`` resumes goes on at its step. The weights do not change. To do all of
    it inside a training: :class:`~sepprune_tp.lightning.PruneCallback`.

    Example::

        learning = GateLearning(model, Budget(macs=0.5))
        Trainer(max_epochs=-1).fit(learning, train_loader)
        SepPrunePruner(model, example, importance=SepPruneImportance(learning.gates)).step()

    Attributes:
        model: The separator.
        gates: Its gates; None before the first batch.
        result: Costs, time and history of the search; None until its steps are done.
    """

    gates: GateSet | None
    result: SearchResult | None

    if TYPE_CHECKING:  # Lightning's, of either package
        trainer: Any
        log_dict: Any

    def __init__(
        self,
        model: nn.Module,
        budget: Budget | None,
        *,
        loss: Loss = pit_neg_si_sdr,
        steps: int = 500,
        example: Tensor | None = None,
        scope: Scope = "separator",
        kind: str | Parametrisation = "budget",
        lookahead: bool = False,
        pair: Pair | None = None,
        lr: float = 0.1,
        seed: int = 0,
        clip: float = 5.0,
        round_to: RoundTo = 1,
        package: str | None = None,
    ) -> None:
        """Say what to learn.

        Args:
            model: The separator, mixtures (B, T) -> estimates (B, S, T).
            budget: Of the pruned model; None with ``kind="gumbel"`` only.
            loss: (estimates (B, S, T), sources (B, S, T)) -> scalar, a mean over mixtures; a
                :class:`~sepprune_tp.Distillation` without a teacher compares with the dense model.
            steps: Batches that are learned from.
            example: Mixture (1, T) that MACs are counted on; None: the first training mixture.
            scope: ``"separator"``, ``"all"`` or modules of the model.
            kind: ``"budget"`` or ``"gumbel"``, the published rule.
            lookahead: Whether to look for the channels that are best after reconstruction.
            pair: Makes (mixture, sources) of a training batch that holds something else.
            lr: Learning rate of the scores.
            seed: Of the scores and samples.
            clip: Gradient norm of the scores.
            round_to: Widths are multiples of this, or ``"auto"``.
            package: ``"lightning"`` or ``"pytorch_lightning"``, whose trainer is to take it; None:
                the one that is imported, and of both ``pytorch_lightning``, which is Asteroid's.

        Raises:
            InputError: If a value cannot work.
            MissingExtraError: If Lightning is not installed.
        """
        super().__init__()
        if steps < 1:
            raise InputError(f"steps={steps}: a search takes at least one step")
        self.automatic_optimization = False
        self.model = unwrapped(model)
        self.gates = self.result = None
        self._budget, self._loss, self._steps, self._example = budget, loss, steps, example
        self._scope, self._kind, self._lookahead = scope, kind, lookahead
        self._pair, self._lr, self._seed, self._clip = pair, lr, seed, clip
        self._round_to = round_to
        self._search: Search | None = None
        self._kept: Any = None
        self._began = time.perf_counter()

    def configure_optimizers(self) -> list[Any]:
        """None: no weight is trained, and the scores have an Adam of their own."""
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Learn from one batch.

        Raises:
            DataError: If it is no (mixture (B, T), sources (B, S, T)), or holds NaN.
            BudgetError: At the first: if the budget is out of reach.
            CheckpointError: At the first: if ``ckpt_path`` is of another search.
        """
        pair = as_pair(batch, self._pair, "GateLearning")
        search = self._search or self._begin(pair[0])
        if not search.done:
            both = checked(pair, search.state.step, device_of(self.model))
            kind = device_of(self.model).type
            # the search has an autocast of its own, and takes the loss outside of it
            with search.running(), torch.autocast(kind, enabled=False):
                record = search.step(iter([both]), self._loss)
            self.log_dict({f"search/{name}": value for name, value in record.items()})
        self.trainer.should_stop = search.done

    def _begin(self, mixture: Tensor) -> Search:
        example = mixture[:1] if self._example is None else self._example
        example = self.trainer.strategy.broadcast(example.cpu()).to(device_of(self.model))
        self.gates = GateSet(self.model, example, self._scope, self._kind, self._seed)
        self._search = search = Search(
            self.gates,
            self._budget,
            steps=self._steps,
            lr=self._lr,
            seed=self._seed,
            clip=self._clip,
            lookahead=self._lookahead,
            autocast=autocast_of(self.trainer),
        )
        search.settings["model"] = fingerprint(self.model)[:16]
        search.settings["loss"] = loss_identity(self._loss)
        if self._kept is not None:
            kept = agreeing(self._kept, search.settings, "The checkpoint that fit was given")
            restore(kept, self.gates, search.state)
            self._kept = None
        return search

    def on_train_end(self) -> None:
        """Set the masks, if all steps are done."""
        if self._search is None or self.gates is None:
            return
        search, gates = self._search, self.gates
        if not search.done:
            warnings.warn(
                f"The search ended after {search.state.step} of {search.steps} steps, and its "
                "masks are not set. Let it go on with fit(..., ckpt_path=...), and give "
                "Trainer(max_epochs=-1): it ends with the search.",
                stacklevel=2,
            )
            return
        search.end()
        keep, met = search.processes.by_first(lambda: search.settle(self._round_to))
        gates.set_keep(keep)
        remember(gates)
        seconds = time.perf_counter() - self._began
        dense = gates.cost_model.dense
        self.result = SearchResult(gates.cost(), dense, seconds, search.state.history, met)
        self._search = None

    def teardown(self, stage: str) -> None:
        """Let the gates be where the trainer leaves the model."""
        if self.gates is not None:
            self.gates.scores = self.gates.scores.detach().to(device_of(self.model))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the search, as plain data."""
        if self._search is not None and self.gates is not None:
            search = self._search
            checkpoint[_KEY] = content_of(self.gates, search.state, search.settings)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with its search at the next batch."""
        self._kept, self._search = checkpoint.get(_KEY), None
