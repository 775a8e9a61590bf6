"""``SepPruneImportance``: learned gate scores as a torch-pruning importance."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_pruning as tp
from torch import Tensor, nn

from .errors import InputError, NotLearnedError
from .gates import GateSet, ScoreTable, last_learned
from .graph import ChannelGroup, Scope

__all__ = ["SepPruneImportance"]


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
        self._tables: WeakKeyDictionary[nn.Module, ScoreTable] = WeakKeyDictionary()

    def table_for(self, model: nn.Module) -> ScoreTable:
        """Scores of the present channels of a model.

        Raises:
            NotLearnedError: If no gates were given and none were learned on this model.
        """
        table = self._tables.get(model)
        if table is None:
            if self.gates is not None:
                if not self.gates.learned:
                    raise NotLearnedError(
                        "the gates of this importance have not been learned: run learn_gates("
                        "gates, batches, loss, ...) or gates.load_masks(...) first"
                    )
                table = ScoreTable(self.gates.output_table(), self.gates.scope).follow(model)
            else:
                table = last_learned(model)
            if table is None:
                raise NotLearnedError(
                    f"no gates were learned on this {type(model).__name__}: run learn_gates("
                    "GateSet(model, example_inputs), batches, loss, ...) on it first, or pass the "
                    "gates: SepPruneImportance(gates)"
                )
            self._tables[model] = table
        return table

    def scope_for(self, model: nn.Module) -> Scope:
        """The scope in which the gates were learned."""
        return self.table_for(model).scope

    def __call__(self, group: ChannelGroup) -> Tensor | None:
        """Score the channels of a group.

        Args:
            group: A group of our graph.

        Returns:
            Scores of the root's channels, shape (len(root idxs),); None for a group without gates.
        """
        row = self._row(group)
        return None if row is None else row[0]

    def keeps(self, group: ChannelGroup) -> Tensor | None:
        """Hard mask of the root's channels, shape (len(root idxs),); None without gates."""
        row = self._row(group)
        return None if row is None else row[1]

    def _row(self, group: Any) -> tuple[Tensor, Tensor] | None:
        graph = group._DG
        rows = self.table_for(graph.model).rows
        name = graph._module2name.get(group[0].dep.target.module)
        if name not in rows:
            return None
        scores, keep = rows[name]
        idxs = torch.tensor(group[0].idxs)
        return scores[idxs], keep[idxs]
