"""sepprune_tp: structured pruning of speech-separation networks on torch-pruning.

Learns which channels a trained separator can do without (SepPrune, arXiv 2505.12079), removes them
with everything coupled to them, and recovers the quality.
"""

import typing as _typing

from ._starting import complete as _complete
from ._starting import is_put_off as _is_put_off
from .version import __version__

if not _is_put_off():
    from sepprune_tp.checkpoint import load_pruned, save_pruned
    from sepprune_tp.checkpoint.history import history
    from sepprune_tp.checkpoint.restoring import restore_dense

    from .architectures import mend_asteroid as _mend_asteroid
    from .distillation import Distillation
    from .errors import SepPruneError
    from .gates import GateSet
    from .gates import register_resource as _register_resource
    from .graph import ChannelGraph, channel_graph
    from .graph.kept import KeptChannels
    from .importance import SepPruneImportance
    from .inference import optimize_for_inference
    from .measure.memory import MemoryResource as _MemoryResource
    from .measure.memory import measure_memory
    from .measure.timing import LatencyResource as _LatencyResource
    from .profile import profile
    from .pruner import SepPrunePruner, install
    from .quantisation import quantise
    from .recovery import recalibrate, reconstruct
    from .search import Budget, SearchResult, learn_gates

    install()
    _register_resource("memory", _MemoryResource)
    _register_resource("latency", _LatencyResource)
    _mend_asteroid()

__all__ = [
    "Budget",
    "ChannelGraph",
    "Distillation",
    "GateSet",
    "KeptChannels",
    "SearchResult",
    "SepPruneError",
    "SepPruneImportance",
    "SepPrunePruner",
    "__version__",
    "channel_graph",
    "history",
    "learn_gates",
    "load_pruned",
    "measure_memory",
    "optimize_for_inference",
    "profile",
    "quantise",
    "recalibrate",
    "reconstruct",
    "restore_dense",
    "save_pruned",
]

if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What the command line has put off, for models that are built by other modules."""
        if name in __all__ and _is_put_off():
            _complete()
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
