"""Gates: masks on channel groups that compute exactly what pruning would leave."""

from .active import refuse_gated
from .cost import Cost, CostModel
from .gate_set import GateSet
from .lookahead import Lookahead
from .parametrisation import Gumbel, HardConcrete, Parametrisation
from .resources import CostResource, Resource, register_resource
from .table import GateGroup, Row, ScoreTable, last_learned, remember

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
    "Row",
    "ScoreTable",
    "last_learned",
    "refuse_gated",
    "register_resource",
    "remember",
]
