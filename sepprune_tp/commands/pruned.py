"""What ``sepprune prune`` writes: a pruned model, or a family with its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sepprune_tp.checkpoint import save_pruned
from sepprune_tp.commands.common import say
from sepprune_tp.evaluate import evaluate
from sepprune_tp.job import Member, SearchSettings
from sepprune_tp.profile import Profile, profile
from sepprune_tp.reporting.family import family_markdown, plot_family
from sepprune_tp.reporting.files import write_json, write_text
from sepprune_tp.reporting.summary import environment
from sepprune_tp.search import Spent

__all__ = ["save", "say_spent", "write_family"]

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


def write_family(
    out: Path,
    name: str,
    network: nn.Module,
    members: list[Member],
    example: Tensor,
    settings: SearchSettings,
    held_out: Any,
    rate: int,
) -> None:
    """Write the members, and JSON, Markdown and PNG of their costs and quality."""
    before = profile(network, example)

    def figures(model: nn.Module, cost: Profile) -> dict[str, Any]:
        scores = {} if held_out is None else evaluate(model, held_out, sample_rate=rate).as_dict()
        return {**scores, "params": cost.params, "macs": cost.macs}

    rows = []
    for member in members:
        cost = profile(member.model, example)
        label = member.budget.replace("%", "pct")
        path = out.with_name(f"{out.stem}-{label}{out.suffix or '.safetensors'}")
        save(member.model, path, settings, member.kept, member.spent, before, cost)
        say(f"{member.budget}: MACs {cost.macs:,} ({cost.macs / before.macs:.1%}) -> {path}")
        say_spent(member.spent)
        rows.append(
            {
                "file": path.name,
                "budget": member.budget,
                "groups": member.kept,
                **figures(member.model, cost),
            }
        )
    report = {
        "dense": {"file": Path(name).name, **figures(network, before)},
        "members": rows,
        "settings": asdict(settings),
        **environment(),
    }
    if held_out is not None:
        report |= {"mixtures": len(held_out), "data": "mixtures of the split val"}
    stem = out.with_name(f"{out.stem}-family")
    plot_family(stem.with_name(f"{stem.name}.png"), report)
    write_text(stem.with_name(f"{stem.name}.md"), family_markdown(report, f"{stem.name}.png"))
    write_json(stem.with_name(f"{stem.name}.json"), report)
    say(f"Wrote {stem}.md, .json and .png.")
