"""What became of a dense model: read from a pruned model or its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sepprune_tp._unwrap import unwrapped
from sepprune_tp.checkpoint import read_lineage
from sepprune_tp.errors import CheckpointError
from sepprune_tp.graph.lineage import Lineage, lineage_of

__all__ = ["Event", "History", "history", "past_of"]

HOW = (
    "Prune the dense model again with this version (SepPrunePruner, or any torch-pruning pruner "
    "on the channel graph) and save it with save_pruned."
)


@dataclass(frozen=True)
class Event:
    """One thing that was done to a model.

    Attributes:
        what: ``cut``, ``recovered``, ``reconstructed``, ``recalibrated``.
        date: When it began (a cut: when its last channel went), UTC, ISO 8601.
        facts: Settings, budget and figures, as far as they were given.
        kept: Of a cut: the channels left after it, by group, as indices among those of the dense
            model.
    """

    what: str
    date: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """The past of a pruned model.

    Attributes:
        dense: ``sha256`` of the weights of the dense model, its ``class`` and ``params``.
        events: What was done, in order.
        sizes: Channels of the dense model, by group (name of its first layer).
        kept: Channels that are left, by group, as indices among those of the dense model.
        pooling: Norms that lost channels and take statistics over several.
        lost: Why the indices cannot be relied on; empty if they can.
    """

    dense: Mapping[str, Any]
    events: tuple[Event, ...]
    sizes: Mapping[str, int]
    kept: Mapping[str, list[int]]
    pooling: tuple[str, ...] = ()
    lost: str = ""

    def plain(self) -> dict[str, Any]:
        """The same as JSON data."""
        return {
            "dense": dict(self.dense),
            "events": [
                {"what": e.what, "date": e.date, "facts": dict(e.facts), "kept": dict(e.kept)}
                for e in self.events
            ],
            "groups": {
                name: {"size": n, "kept": self.kept[name]} for name, n in self.sizes.items()
            },
            "pooling": list(self.pooling),
            "lost": self.lost,
        }

    def __str__(self) -> str:
        """A text for people: one line an event, one a group."""
        dense, lines = self.dense, []
        lines.append(
            f"{'dense':<13}  {dense['class']}, {dense['params']:,} parameters, sha256 "
            f"{dense['sha256'][:16]}"
        )
        for event in self.events:
            left = sum(map(len, event.kept.values()))
            whole = sum(self.sizes[name] for name in event.kept)
            channels = f"{left} of {whole} channels in {len(event.kept)} groups" if whole else ""
            told = [part for part in (channels, *_told(event.facts)) if part]
            lines.append(f"{event.what:<13}  {event.date}  {'; '.join(told)}".rstrip())
        width = max(map(len, self.sizes), default=0)
        for name, size in self.sizes.items():
            kept = self.kept[name]
            lines.append(f"  {name:<{width}}  {len(kept)} of {size}: {_ranges(kept)}")
        if self.lost:
            lines.append(f"These indices cannot be relied on: {self.lost}.")
        return "\n".join(lines)


def history(model: nn.Module | str | os.PathLike[str]) -> History:
    """Read what became of the dense model that a pruned one was.

    Args:
        model: A pruned model, or a file that ``save_pruned`` wrote.

    Returns:
        Events and indices; printed, a text.

    Raises:
        CheckpointError: If the file is not one of ours, or tells nothing: it is older than this,
            or holds a model that was never pruned on a channel graph.
    """
    lineage = past_of(model)
    return History(
        dense=dict(lineage.dense),
        events=tuple(
            Event(e["what"], e["date"], e.get("facts", {}), e.get("kept", {}))
            for e in lineage.events
        ),
        sizes={name: kept.size for name, kept in lineage.groups.items()},
        kept={name: list(kept.channels) for name, kept in lineage.groups.items()},
        pooling=tuple(lineage.pooling),
        lost=lineage.lost,
    )


def past_of(model: nn.Module | str | os.PathLike[str]) -> Lineage:
    """What is known of a model, or of a file of one.

    Raises:
        CheckpointError: If nothing is.
    """
    if isinstance(model, nn.Module):
        found, where = lineage_of(unwrapped(model)), type(model).__name__
    else:
        found, where = read_lineage(model), str(Path(model))
    if found is None:
        raise CheckpointError(
            f"{where} tells nothing of its past: it was never pruned on a channel graph, or by a "
            f"version of sepprune-tp before histories were kept. {HOW}"
        )
    return found


def _told(facts: Mapping[str, Any]) -> list[str]:
    """The facts that fit into a line."""
    told = []
    budget = facts.get("budget")
    if isinstance(budget, Mapping):
        shares = [
            f"{name} {entry['cost'] / entry['dense']:.1%} of {entry['bound'] / entry['dense']:.1%}"
            for name, entry in budget.items()
            if isinstance(entry, Mapping) and {"cost", "dense", "bound"} <= entry.keys()
        ]
        told += [f"budget: {', '.join(shares)}"] if shares else []
    left = facts.get("pruned")
    if isinstance(left, Mapping) and {"params", "macs"} <= left.keys():
        told.append(f"{left['params']:,} parameters, {left['macs']:,} MACs")
    for key in ("steps", "si_sdr", "seconds", "layers", "error_before", "error_after"):
        if isinstance(value := facts.get(key), (int, float)):
            told.append(f"{key} {value:g}" if isinstance(value, int) else f"{key} {value:.3g}")
    return told


def _ranges(indices: list[int], most: int = 8) -> str:
    """Indices as ranges: 0-3, 7, 9-12."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    more = f", ... ({len(texts) - most} more; --json gives all)" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
