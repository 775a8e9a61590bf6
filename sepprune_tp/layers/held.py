"""Buffers that hold a number for each channel, as layers: cut with the channels that they meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

from .base import Count, LayerRule

__all__ = ["HeldBuffer", "HeldBufferRule"]


class HeldBuffer(nn.Module):
    """Stands for one buffer of a module.

    Attributes:
        host: The module that holds it.
        key: Its name there.
        dim: The axis that is cut.
    """

    def __init__(self, host: nn.Module, key: str, dim: int) -> None:
        super().__init__()
        self._host = (host,)  # in a tuple: it is no submodule
        self.key, self.dim = key, dim

    @property
    def host(self) -> nn.Module:
        """The module that holds the buffer."""
        return self._host[0]

    @property
    def buffer(self) -> Tensor:
        """The buffer."""
        found = self.host._buffers[self.key]
        assert found is not None
        return found

    def of(self, host: nn.Module) -> HeldBuffer:
        """The same buffer of a copy of the module."""
        return HeldBuffer(host, self.key, self.dim)


class HeldBufferPruner(BasePruningFunc):
    """Cuts a buffer."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        """Remove entries ``idxs``."""
        buffer = layer.buffer
        keep = sorted(set(range(buffer.shape[layer.dim])) - set(idxs))
        index = torch.tensor(keep, dtype=torch.long, device=buffer.device)
        layer.host._buffers[layer.key] = buffer.index_select(layer.dim, index)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        """Entries."""
        return int(layer.buffer.shape[layer.dim])

    get_in_channels = get_out_channels


class HeldBufferRule(LayerRule):
    """A buffer keeps channels apart and costs nothing."""

    kind = "buffer"
    relation: ClassVar[Literal["maps", "through"]] = "through"
    _pruner = HeldBufferPruner()

    def pruner(self, module: Any) -> BasePruningFunc:
        return self._pruner

    def axis(self, module: Any, tensor: Tensor) -> int:
        return int(module.dim)

    def params(self, module: Any, n_in: Count, n_out: Count) -> Count:
        return n_out * 0
