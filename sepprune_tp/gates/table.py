"""Scores by layer name and channel, apart from the model: what a pruner needs of learned gates."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..graph import Scope
from ..graph.cuts import Cut, subscribe
from .gate_set import GateSet

__all__ = ["ScoreTable", "last_learned", "remember"]


class ScoreTable:
    """Scores and masks by layer name and output channel, kept true while the model is cut.

    Attributes:
        rows: Layer name -> (scores (n_out,), keep (n_out,)).
        scope: Scope of the gates.
    """

    def __init__(self, rows: dict[str, tuple[Tensor, Tensor]], scope: Scope) -> None:
        self.rows, self.scope = rows, scope

    def follow(self, model: nn.Module) -> ScoreTable:
        """A copy that forgets the channels that are cut from ``model`` from now on."""
        table = ScoreTable(dict(self.rows), self.scope)
        subscribe(model, table._forget)
        return table

    def _forget(self, cut: Cut) -> None:
        if cut.side == "out" and cut.layer in self.rows:
            stays = torch.ones(self.rows[cut.layer][0].numel(), dtype=torch.bool)
            stays[cut.indices] = False
            scores, keep = self.rows[cut.layer]
            self.rows[cut.layer] = (scores[stays], keep[stays])


_LAST_LEARNED: WeakKeyDictionary[nn.Module, ScoreTable] = WeakKeyDictionary()


def remember(gates: GateSet) -> None:
    """Make gates the last ones learned on their model, for ``SepPruneImportance()``."""
    table = ScoreTable(gates.output_table(), gates.scope)
    _LAST_LEARNED[gates.model] = table.follow(gates.model)


def last_learned(model: nn.Module) -> ScoreTable | None:
    """The table of the gates last learned on a model, or None."""
    return _LAST_LEARNED.get(model)
