"""Gates: masks on channel groups that compute exactly what pruning would leave."""

from .cost import Cost, CostModel
from .gate_set import GateGroup, GateSet
from .parametrisation import Gumbel, HardConcrete, Parametrisation
from .table import ScoreTable, last_learned, remember

__all__ = [
    "Cost",
    "CostModel",
    "GateGroup",
    "GateSet",
    "Gumbel",
    "HardConcrete",
    "Parametrisation",
    "ScoreTable",
    "last_learned",
    "remember",
]
