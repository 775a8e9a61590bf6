"""Pruning inside a Lightning training that exists already, such as an Asteroid recipe's.

Importing this imports neither Lightning nor Asteroid; making a callback imports Lightning.
"""

from .callback import PruneCallback
from .checkpoints import load_weights
from .summary import Pruned

__all__ = ["PruneCallback", "Pruned", "load_weights"]
