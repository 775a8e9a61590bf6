"""Pruning in Lightning: inside a training that exists already, or as modules for a trainer.

Importing this imports neither Lightning nor Asteroid; making one of these imports Lightning.
"""

from .callback import PruneCallback
from .checkpoints import load_weights
from .gate_learning import GateLearning
from .recovery import Recovery
from .summary import Pruned

__all__ = ["GateLearning", "PruneCallback", "Pruned", "Recovery", "load_weights"]
