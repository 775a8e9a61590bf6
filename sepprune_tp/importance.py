"""``SepPruneImportance``: learned gate scores as a torch-pruning importance."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_pruning as tp
from torch import Tensor, nn

from .errors import InputError, NotLearnedError
from .gates import GateSet, Row, ScoreTable, last_learned
from .graph import ChannelGraph, ChannelGroup

__all__ = ["SepPruneImportance"]

_CHECKED: WeakKeyDictionary[ChannelGraph, ScoreTable] = WeakKeyDictionary()
"""Graphs whose model is that of the gates."""


class SepPruneImportance(tp.importance.Importance):
    """Importance of a channel = its learned gate score.

    Usable with every torch-pruning pruner; a pruner that is given this importance builds our
    channel graph, in the scope of the gates.

    Args:
        gates: Learned gates, or gates with masks loaded by hand. Default: the gates last learned on
            the model that is being pruned.
    """

    def __init__(self, gates: GateSet | None = None) -> None:
        if gates is not None and not isinstance(gates, GateSet):
            raise InputError(
                f"SepPruneImportance takes a GateSet, not a {type(gates).__name__}; pass the gates "
                "that learn_gates has trained"
            )
        self.gates = gates

    def table_for(self, model: nn.Module) -> ScoreTable:
        """Scores and masks of the gates, as they are now.

        Raises:
            NotLearnedError: If no gates were given and none were learned on this model.
        """
        table = last_learned(model) if self.gates is None else self.gates.table
        if table is None:
            raise NotLearnedError(
                f"no gates were learned on this {type(model).__name__}: run learn_gates("
                "GateSet(model, example_inputs), batches, loss, ...) on it first, or pass the "
                "gates: SepPruneImportance(gates)"
            )
        if not table.learned:
            raise NotLearnedError(
                "the gates of this importance have not been learned: run learn_gates("
                "gates, batches, loss, ...) or gates.load_masks(...) first"
            )
        return table

    def __call__(self, group: ChannelGroup) -> Tensor | None:
        """Score the channels of a group.

        Args:
            group: A group of our graph.

        Returns:
            Scores of the root's channels, shape (len(root idxs),); None for a group without gates.

        Raises:
            InputError: If the group is not one of the model that the gates were made for.
        """
        row = self._row(group)
        return None if row is None else row.scores

    def keeps(self, group: ChannelGroup) -> Tensor | None:
        """Hard mask of the root's channels, shape (len(root idxs),); None without gates."""
        row = self._row(group)
        return None if row is None else row.keep

    def _row(self, group: Any) -> Row | None:
        """What the gates say of the channels of the root."""
        graph = group._DG
        table = self.table_for(graph.model)
        if isinstance(graph, ChannelGraph) and _CHECKED.get(graph) is not table:
            table.check(graph)
            _CHECKED[graph] = table
        row = table.row(graph.model, _name(graph, group[0]))
        if row is None:
            return None
        idxs = torch.tensor(group[0].idxs)
        return Row(row.gates[idxs], row.scores[idxs], row.keep[idxs])


def _name(graph: Any, item: Any) -> str:
    owner = item.dep.target.module
    ours = isinstance(graph, ChannelGraph)
    return str(graph.name_of(owner) if ours else graph._module2name.get(owner))
