"""What ``sepprune prune`` does and writes: a pruned model, or a family, and reports."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.checkpoint import save_pruned
from sepprune_tp.commands.output import note, say, visible, watched
from sepprune_tp.commands.planning import Work, plan_search, say_plan
from sepprune_tp.errors import SepPruneError
from sepprune_tp.job import Member, SearchSettings, Shrunk, shrink, shrink_family
from sepprune_tp.profile import Profile, profile
from sepprune_tp.reporting.family import family_markdown, plot_family
from sepprune_tp.reporting.files import write_json, write_text
from sepprune_tp.reporting.measuring import Measuring
from sepprune_tp.reporting.page import html_page
from sepprune_tp.reporting.summary import environment, finite, markdown_report
from sepprune_tp.search import Spent
from sepprune_tp.search.sharing import ItemBatches

__all__ = ["Job"]

MEASURED = {"latency": "ms", "memory": "bytes"}


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
            stem = _stem(self.out, "family")
            models = tuple(_member(self.out, budget) for budget in budgets)
            return (*models, *(_ending(stem, end) for end in ("html", "md", "json", "png")))
        stem = _stem(self.out, "report")
        ends = ("html", "md", "json") if self.report else ()
        return (self.out, *(_ending(stem, end) for end in ends))


def save(
    network: nn.Module,
    out: Path,
    settings: SearchSettings,
    kept: Mapping[str, tuple[int, int]],
    spent: Mapping[str, Spent],
    before: Profile,
    after: Profile,
) -> None:
    """Write a pruned model with how it came about."""
    metadata = {
        "settings": asdict(settings),
        "groups": dict(kept),
        "budget": {name: asdict(entry) for name, entry in spent.items()},
        "dense": {"params": before.params, "macs": before.macs},
        "pruned": {"params": after.params, "macs": after.macs},
        **environment(),
    }
    save_pruned(network, out, metadata=metadata)


def say_spent(spent: Mapping[str, Spent]) -> None:
    """Print what was measured, and a note where no bound was met closely."""
    for name, entry in spent.items():
        if name in MEASURED:
            figures = [f"{value:,.6g}" for value in (entry.dense, entry.cost, entry.bound)]
            say(f"{name.capitalize()} {' -> '.join(figures[:2])} of {figures[2]} {MEASURED[name]}")
    tight = any(entry.close or entry.cost >= entry.dense for entry in spent.values())
    if spent and not tight:
        name, entry = min(spent.items(), key=lambda item: item[1].left)
        say(
            f"Note: {name} stays {entry.left:.1%} below its bound (the tolerance is "
            f"{entry.tolerance:.1%}): the channels are too few or too heavy to come closer."
        )


def write_report(
    out: Path,
    name: str,
    dense: nn.Module,
    pruned: nn.Module,
    shrunk: Shrunk,
    settings: SearchSettings,
    measuring: Measuring,
) -> list[Path]:
    """Write JSON, Markdown and HTML of what one pruned model costs, separates and keeps."""
    models = {"dense": dense, "pruned": pruned}
    report = {
        "model": Path(name).name,
        **measuring.figures(models),
        "groups": {group: list(sizes) for group, sizes in shrunk.kept.items()},
        "history": {"search": finite(shrunk.search.history)},
        **_origin(settings, measuring),
    }
    stem = _stem(out, "report")
    written = [
        write_text(_ending(stem, "html"), html_page(report, measuring.clips(models))),
        write_text(_ending(stem, "md"), markdown_report(report)),
        write_json(_ending(stem, "json"), report),
    ]
    say(f"Wrote {stem}.html, .md and .json.")
    return written


def write_family(
    out: Path,
    name: str,
    network: nn.Module,
    members: list[Member],
    settings: SearchSettings,
    measuring: Measuring,
) -> dict[str, Any]:
    """Write the members, and JSON, Markdown, HTML and PNG of their costs and quality."""
    before = profile(network, measuring.example)
    rows = []
    for member in members:
        cost = profile(member.model, measuring.example)
        path = _member(out, member.budget)
        save(member.model, path, settings, member.kept, member.spent, before, cost)
        say(f"{member.budget}: MACs {cost.macs:,} ({cost.macs / before.macs:.1%}) -> {path}")
        say_spent(member.spent)
        rows.append({"file": path.name, "budget": member.budget, "groups": member.kept})
    models = {"dense": network, **{f"budget {m.budget}": m.model for m in members}}
    dense, *figures = measuring.figures(models).values()
    report = {
        "model": Path(name).name,
        "dense": {"file": Path(name).name, **dense},
        "members": [{**row, **figure} for row, figure in zip(rows, figures, strict=True)],
        "history": {"search": finite(members[0].search.history)},
        **_origin(settings, measuring),
    }
    smallest = min(models, key=lambda key: sum(p.numel() for p in models[key].parameters()))
    clips = measuring.clips({"dense": network, smallest: models[smallest]})
    stem = _stem(out, "family")
    plot_family(_ending(stem, "png"), report)
    write_text(_ending(stem, "html"), html_page(report, clips))
    write_text(_ending(stem, "md"), family_markdown(report, f"{stem.name}.png"))
    write_json(_ending(stem, "json"), report)
    say(f"Wrote {stem}.html, .md, .json and .png.")
    return report


def _member(out: Path, budget: str) -> Path:
    """File of one model of a family."""
    return out.with_name(f"{out.stem}-{budget.replace('%', 'pct')}{out.suffix or '.safetensors'}")


def _stem(out: Path, what: str) -> Path:
    """Files of a report, less their endings; those of ``small.v2`` have a dot of their own."""
    return out.with_name(f"{out.stem}-{what}")


def _ending(stem: Path, end: str) -> Path:
    return stem.with_name(f"{stem.name}.{end}")


def _origin(settings: SearchSettings, measuring: Measuring) -> dict[str, Any]:
    """What the figures are of, and how they came about."""
    data: dict[str, Any] = {}
    if measuring.mixtures is not None:
        data = {"mixtures": len(measuring.mixtures), "data": "mixtures of the split val"}
    return {**data, "settings": asdict(settings), **environment()}
