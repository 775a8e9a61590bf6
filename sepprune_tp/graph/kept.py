"""Which channels of the dense model a pruned one still has, by layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._unwrap import unwrapped
from .cuts import Cut, subscribe

__all__ = ["KeptChannels"]


class KeptChannels:
    """Follows a model while it is cut; make one before the pruner's ``step``.

    It hears of every cut on a channel graph, whoever chose the channels: learned gates, or any of
    torch-pruning's importances. Layers are known by name, so that it also holds for copies.

    Example:
        >>> import torch, torch_pruning as tp
        >>> from torch import nn
        >>> from sepprune_tp import SepPrunePruner
        >>> net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 1, 3))
        >>> kept = KeptChannels(net)
        >>> _ = net[0].weight.data[1:3].zero_()
        >>> magnitude = tp.importance.GroupMagnitudeImportance()
        >>> SepPrunePruner(net, torch.randn(1, 1, 16), magnitude, 0.5, scope="all").step()
        >>> kept.outputs("0", 4).tolist(), kept.inputs("2", 4).tolist()
        ([0, 3], [0, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        """Begin to follow a model.

        Args:
            model: The dense model that is going to be pruned, or a wrapper around it.
        """
        self._cuts: dict[tuple[str, str], list[list[int]]] = {}
        subscribe(unwrapped(model), self._hear)

    def _hear(self, cut: Cut) -> None:
        self._cuts.setdefault((cut.layer, cut.side), []).append(list(cut.indices))

    def inputs(self, layer: str, count: int) -> Tensor:
        """Indices of the input channels that a layer still reads.

        Args:
            layer: Dotted name in the model.
            count: Number that the dense layer has.

        Returns:
            Indices among those of the dense layer, in order, shape (kept,).
        """
        return self._left(layer, "in", count)

    def outputs(self, layer: str, count: int) -> Tensor:
        """Indices of the output channels that a layer still makes; as :meth:`inputs`."""
        return self._left(layer, "out", count)

    def _left(self, layer: str, side: str, count: int) -> Tensor:
        left = torch.arange(count)
        for indices in self._cuts.get((layer, side), []):
            stays = torch.ones(left.numel(), dtype=torch.bool)
            stays[indices] = False
            left = left[stays]
        return left
