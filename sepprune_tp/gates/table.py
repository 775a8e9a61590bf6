"""Scores and masks by layer, apart from the model: what a pruner needs of gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..graph import ChannelGraph, Scope
from ..graph.lineage import lineage_of

if TYPE_CHECKING:
    from .gate_set import GateSet

__all__ = ["GateGroup", "Row", "ScoreTable", "last_learned", "remember"]

_HINT = "Make a GateSet of this model, or prune the model that they were made for, or a copy of it."


@dataclass(frozen=True)
class GateGroup:
    """One gated channel group.

    Attributes:
        name: Dotted name of its root layer.
        size: Number of channels.
        start: Index of its first gate among all.
    """

    name: str
    size: int
    start: int

    @property
    def gates(self) -> slice:
        """Where its gates are among all."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Row:
    """The output channels that a layer has now.

    Attributes:
        gates: Gate of each, shape (n_out,); -1: none.
        scores: Score of each, shape (n_out,), float32; infinity without a gate.
        keep: Whether it stays, shape (n_out,), bool; True without a gate.
    """

    gates: Tensor
    scores: Tensor
    keep: Tensor


class ScoreTable:
    """Scores and masks of gates, for the model that they were made for and for copies of it.

    The gates change it while they learn, and whoever holds it sees that. What a model has lost
    since (pruned before, in place or as a copy) is known from its lineage, so a table never takes
    one channel for another.

    Attributes:
        groups: The gated groups.
        scores: Score of each gate, shape (N,), higher is more important.
        keep: True where a gate is open, shape (N,), bool, on the CPU.
        learned: Whether the masks were learned or loaded.
        scope: Scope of the gates.
        options: How their graph was built: ``forward_fn`` and ``output_transform``.
        columns: For each layer with gated outputs, the gate of each channel (-1: none).
    """

    def __init__(
        self,
        graph: ChannelGraph,
        groups: list[GateGroup],
        columns: dict[str, Tensor],
        scores: Tensor,
        options: dict[str, Any],
    ) -> None:
        """Take the gates of a model.

        Args:
            graph: The graph of the model.
            groups: The gated groups.
            columns: For each layer with gated outputs, the gate of each channel (-1: none).
            scores: Score of each gate, shape (N,).
            options: ``forward_fn`` and ``output_transform`` of the graph.
        """
        self.groups, self.columns, self.options = groups, columns, options
        self.scores = scores
        self.keep = torch.ones(scores.numel(), dtype=torch.bool)
        self.learned = False
        self.scope = graph.scope
        lineage = lineage_of(graph.model)
        before = {} if lineage is None else lineage.groups
        self._before = {name: list(kept.channels) for name, kept in before.items()}
        self._inside: list[str] = []
        if not isinstance(graph.scope, str):
            names = {module: name for name, module in graph.model.named_modules()}
            self._inside = [names[module] for module in graph.scope]

    def scope_in(self, model: nn.Module) -> Scope:
        """The scope of the gates in a model.

        Raises:
            InputError: If the model has not the modules that were listed.
        """
        if isinstance(self.scope, str):
            return self.scope
        modules = dict(model.named_modules())
        for name in self._inside:
            if name not in modules:
                raise InputError(f"{type(model).__name__} has no module '{name}', which is in the "
                                 f"scope of these gates. {_HINT}")  # fmt: skip
        return [modules[name] for name in self._inside]

    def row(self, model: nn.Module, layer: str) -> Row | None:
        """The output channels that a layer has now.

        Args:
            model: The model of the gates, or a copy of it, pruned before or not.
            layer: Dotted name of the layer.

        Returns:
            Their gates, scores and masks; None for a layer without gated outputs.

        Raises:
            InputError: If the past of the model cannot be that of the gates' model.
        """
        if layer not in self.columns:
            return None
        present = torch.ones(self.keep.numel() + 1, dtype=torch.bool)  # the last: without a gate
        lineage = lineage_of(model)
        for root, kept in ({} if lineage is None else lineage.groups).items():
            if root in self.columns and layer in (root, *kept.members):
                present[self._lost(root, kept.size, kept.channels)] = False
        gates = self.columns[layer]
        gates = gates[present[gates]]
        scores = torch.cat([self.scores.detach().float().cpu(), torch.tensor([float("inf")])])
        keep = torch.cat([self.keep, torch.tensor([True])])
        return Row(gates, scores[gates], keep[gates])

    def _lost(self, root: str, size: int, channels: list[int]) -> Tensor:
        """Gates whose channels a model has lost since the gates were made."""
        before = self._before.get(root, list(range(size)))
        if len(before) != self.columns[root].numel() or not set(channels) <= set(before):
            raise InputError(
                f"'{root}' has lost other channels than in the model that the gates were made "
                f"for. {_HINT}"
            )
        left = set(channels)
        gates = zip(before, self.columns[root].tolist(), strict=True)
        return torch.tensor([g for c, g in gates if c not in left and g >= 0], dtype=torch.long)

    def check(self, graph: ChannelGraph) -> None:
        """See that the gates are of the model of a graph.

        Raises:
            InputError: If a layer with gated outputs is not in it, has other channels, or is
                coupled with others.
        """
        kind = type(graph.model).__name__
        owners = {graph.name_of(owner): owner for owner in graph.module2node}
        known: dict[int, tuple[int, str]] = {}  # component of a gate, and where it was met first
        there: dict[int, tuple[int, str]] = {}  # gate of a component, likewise
        for name in self.columns:
            if name not in owners:
                raise InputError(
                    f"the gates have scores of '{name}', which is not a layer of this {kind}, or "
                    f"did not run on the example. {_HINT}"
                )
            row = self.row(graph.model, name)
            components = graph.site_of(owners[name], "out").components.tolist()
            if row is None or row.gates.numel() != len(components):
                count = 0 if row is None else row.gates.numel()
                raise InputError(
                    f"'{name}' has {len(components)} output channels in this {kind}, the gates "
                    f"know {count}. {_HINT}"
                )
            for gate, component in zip(row.gates.tolist(), components, strict=True):
                for one, other, met in ((gate, component, known), (component, gate, there)):
                    before, where = met.setdefault(one, (other, name))
                    if before != other and gate >= 0:
                        raise InputError(
                            f"'{name}' and '{where}' are coupled in another way in this {kind} "
                            f"than in the model that the gates were made for. {_HINT}"
                        )

    def __copy__(self) -> ScoreTable:
        """A table that changes by itself."""
        twin = object.__new__(ScoreTable)
        twin.__dict__.update(self.__dict__)
        return twin


_LAST_LEARNED: WeakKeyDictionary[nn.Module, ScoreTable] = WeakKeyDictionary()


def remember(gates: GateSet) -> None:
    """Make gates the last ones learned on their model, for ``SepPruneImportance()``."""
    _LAST_LEARNED[gates.model] = gates.table


def last_learned(model: nn.Module) -> ScoreTable | None:
    """The table of the gates last learned on a model, or None."""
    return _LAST_LEARNED.get(model)
