"""What ``sepprune prune`` writes: a pruned model, or a family, and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from sepprune_tp.checkpoint import save_pruned
from sepprune_tp.commands.output import say
from sepprune_tp.job import Member, SearchSettings, Shrunk
from sepprune_tp.profile import Profile, profile
from sepprune_tp.reporting.family import family_markdown, plot_family
from sepprune_tp.reporting.files import write_json, write_text
from sepprune_tp.reporting.measuring import Measuring
from sepprune_tp.reporting.page import html_page
from sepprune_tp.reporting.summary import environment, finite, markdown_report
from sepprune_tp.search import Spent

__all__ = [
    "member_file",
    "report_stem",
    "save",
    "say_spent",
    "with_ending",
    "write_family",
    "write_report",
]

MEASURED = {"latency": "ms", "memory": "bytes"}


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
    stem = report_stem(out, "report")
    written = [
        write_text(with_ending(stem, "html"), html_page(report, measuring.clips(models))),
        write_text(with_ending(stem, "md"), markdown_report(report)),
        write_json(with_ending(stem, "json"), report),
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
        path = member_file(out, member.budget)
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
    stem = report_stem(out, "family")
    plot_family(with_ending(stem, "png"), report)
    write_text(with_ending(stem, "html"), html_page(report, clips))
    write_text(with_ending(stem, "md"), family_markdown(report, f"{stem.name}.png"))
    write_json(with_ending(stem, "json"), report)
    say(f"Wrote {stem}.html, .md, .json and .png.")
    return report


def member_file(out: Path, budget: str) -> Path:
    """File of one model of a family."""
    return out.with_name(f"{out.stem}-{budget.replace('%', 'pct')}{out.suffix or '.safetensors'}")


def report_stem(out: Path, what: str) -> Path:
    """Files of a report, less their endings; those of ``small.v2`` have a dot of their own."""
    return out.with_name(f"{out.stem}-{what}")


def with_ending(stem: Path, end: str) -> Path:
    """One file of a report."""
    return stem.with_name(f"{stem.name}.{end}")


def _origin(settings: SearchSettings, measuring: Measuring) -> dict[str, Any]:
    """What the figures are of, and how they came about."""
    data: dict[str, Any] = {}
    if measuring.mixtures is not None:
        data = {"mixtures": len(measuring.mixtures), "data": "mixtures of the split val"}
    return {**data, "settings": asdict(settings), **environment()}
