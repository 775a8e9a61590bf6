"""What ``sepprune prune`` does with a model, and with what data."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.commands.output import note, say, visible, watched
from sepprune_tp.commands.plan_text import say_plan
from sepprune_tp.commands.planning import Work, plan_search
from sepprune_tp.commands.pruned import (
    member_file,
    report_stem,
    save,
    say_spent,
    with_ending,
    write_family,
    write_report,
)
from sepprune_tp.errors import SepPruneError
from sepprune_tp.job import SearchSettings, shrink, shrink_family
from sepprune_tp.profile import profile
from sepprune_tp.reporting.measuring import Measuring
from sepprune_tp.search.sharing import ItemBatches

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """A model to prune, and all that it takes.

    Attributes:
        name: Of the model, as the user gave it.
        network: The dense model; :meth:`one` prunes it in place.
        example: A mixture (1, T) that costs are counted on.
        rate: Of all audio, in Hz.
        train: The training mixtures.
        held_out: The mixtures that a report scores; None: costs alone.
        batch_size: Mixtures a step.
        settings: Of the search.
        out: File to write.
        report: Whether to write a report on a single model.
        checkpoint: Where the search keeps its state.
        devices: That share every batch.
        accelerator: Their kind.
    """

    name: str
    network: nn.Module
    example: Tensor
    rate: int
    train: Any
    held_out: Any
    batch_size: int
    settings: SearchSettings
    out: Path
    report: bool
    checkpoint: Path | None
    devices: int
    accelerator: str

    def plan(self, budgets: Sequence[str]) -> dict[str, Any]:
        """Say what :meth:`one`, or :meth:`family` for several budgets, would do."""
        work = Work(
            train=self.train,
            val=self.held_out,
            batch_size=self.batch_size,
            steps=self.settings.steps,
            seed=self.settings.seed,
            devices=self.devices,
            accelerator=self.accelerator,
            writes=self._files(budgets),
            state=self.checkpoint,
        )
        plan = plan_search(self.network, self.example, self.settings, budgets, work)
        say_plan(plan, self.rate)
        return plan

    def one(self) -> dict[str, Any]:
        """Prune to the budget of the settings, write model and report, and say what came of it."""
        before = profile(self.network, self.example)
        dense = copy.deepcopy(self.network)
        shrunk = shrink(self.network, self.example, self._stream(), self.settings, **self._how())
        kept, spent = shrunk.kept, shrunk.search.spent
        after = profile(self.network, self.example)
        save(self.network, self.out, self.settings, kept, spent, before, after)
        said = {key: getattr(after, key) / getattr(before, key) for key in ("params", "macs")}
        say(
            f"Kept {sum(some for some, _ in kept.values())} of "
            f"{sum(most for _, most in kept.values())} channels in {len(kept)} groups."
        )
        say(f"Parameters {before.params:,} -> {after.params:,} ({said['params']:.1%})")
        say(f"MACs {before.macs:,} -> {after.macs:,} ({said['macs']:.1%})")
        say_spent(spent)
        written = [self.out]
        if self.report:
            try:
                with watched(self.held_out, "scoring") as mixtures:
                    measuring = Measuring(self.example, self.rate, mixtures)
                    written += write_report(
                        self.out, self.name, dense, self.network, shrunk, self.settings, measuring
                    )
            except SepPruneError as error:  # the model is there, and what it took to find it
                note(f"Note: no report. {error}")
        say(f"Wrote {self.out}.")
        return {
            "model": self.name,
            "out": self.out,
            "dense": {"params": before.params, "macs": before.macs},
            "pruned": {"params": after.params, "macs": after.macs},
            "groups": kept,
            "budget": {name: asdict(entry) for name, entry in spent.items()},
            "seconds": shrunk.search.seconds,
            "settings": asdict(self.settings),
            "written": written,
        }

    def family(self, budgets: Sequence[str]) -> dict[str, Any]:
        """Prune copies to several budgets with one search, and write them and their report."""
        members = shrink_family(
            self.network, self.example, self._stream(), self.settings, budgets, **self._how()
        )
        with watched(self.held_out, "scoring") as mixtures:
            measuring = Measuring(self.example, self.rate, mixtures)
            report = write_family(
                self.out, self.name, self.network, members, self.settings, measuring
            )
        return {key: value for key, value in report.items() if key != "history"}

    def _stream(self) -> ItemBatches:
        return ItemBatches(self.train, self.batch_size, shuffle_seed=self.settings.seed)

    def _how(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "devices": self.devices,
            "accelerator": self.accelerator,
            "progress": visible(),
        }

    def _files(self, budgets: Sequence[str]) -> tuple[Path, ...]:
        """What would be written."""
        if budgets:
            stem = report_stem(self.out, "family")
            models = tuple(member_file(self.out, budget) for budget in budgets)
            return (*models, *(with_ending(stem, end) for end in ("html", "md", "json", "png")))
        stem = report_stem(self.out, "report")
        ends = ("html", "md", "json") if self.report else ()
        return (self.out, *(with_ending(stem, end) for end in ends))
