"""Gates as the paper publishes them: a mask on what a layer gives, behind its norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sepprune_tp import GateSet

__all__ = ["PublishedGates"]


class PublishedGates(GateSet):
    """Gates that multiply the channels which readers see, and nothing before.

    Norms take their statistics over all channels, and a recurrent layer remembers all of them: what
    is searched is not the network that pruning leaves, as it is with :class:`GateSet`. A reader's
    weights are scaled in place of the tensor that it reads, which is the same product.

    Source:
        SepPrune, arXiv 2505.12079, section 3.2, and the authors' scripts (itsnotacie/SepPrune), in
        which the mask multiplies a block's output after its final norm.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As for :class:`GateSet`."""
        super().__init__(*args, **kwargs)
        self._layers = [
            replace(layer, index_out=None)
            for layer in self._layers
            if layer.rule.relation != "through" and layer.index_in is not None
        ]
