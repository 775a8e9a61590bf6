"""Gates: masks on channel groups that compute exactly what pruning would leave."""

from .cost import Cost, CostModel
from .gate_set import GateGroup, GateSet
from .lookahead import Lookahead
from .parametrisation import Gumbel, HardConcrete, Parametrisation
from .resources import CostResource, Resource, register_resource
from .table import ScoreTable, last_learned, remember

__all__ = [
    "Cost",
    "CostModel",
    "CostResource",
    "GateGroup",
    "GateSet",
    "Gumbel",
    "HardConcrete",
    "Lookahead",
    "Parametrisation",
    "Resource",
    "ScoreTable",
    "last_learned",
    "register_resource",
    "remember",
]
