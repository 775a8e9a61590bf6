"""What graph, gates and profile need to know of one kind of layer: one abstract class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch_pruning.pruner.function import BasePruningFunc

if TYPE_CHECKING:
    from .regression import Regression
    from .unit_weights import LinearView

__all__ = ["Count", "GatedCall", "LayerRule", "Side", "masked", "swapped_parameters"]

Count = TypeVar("Count", int, Tensor)
"""A number of channels: an exact ``int``, or a differentiable 0-d tensor."""

Side = Literal["in", "out"] | None
"""Whose channels lie along an axis of a parameter: the layer's inputs, its outputs, nobody's."""


@dataclass(frozen=True)
class GatedCall:
    """One call of a layer with gates.

    Attributes:
        forward: The layer's own forward.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        mask_in: Gate of each input channel, shape (n_in,), or None: all open. Where the rule
            :meth:`~LayerRule.mixes`, also a matrix (n_in, n_in) that the input is read through.
        mask_out: Gate of each output channel, shape (n_out,), or None: all open.
    """

    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    mask_in: Tensor | None = None
    mask_out: Tensor | None = None

    def plain(self) -> Any:
        """Call the layer's own forward."""
        return self.forward(*self.args, **self.kwargs)

    def input(self, name: str = "input") -> Tensor:
        """The input tensor, given by position or by name."""
        x: Tensor = self.args[0] if self.args else self.kwargs[name]
        return x


class LayerRule(ABC):
    """Knowledge of one kind of layer.

    Laws that every rule keeps, for a layer with ``n_in`` input and ``n_out`` output channels:

    * removing the closed channels with :meth:`pruner` and running the layer gives what
      :meth:`run_gated` gives with the same masks, on every open output channel;
    * with all channels open, :meth:`run_gated` is the layer itself;
    * :meth:`params` and :meth:`macs` of the kept counts are those of the pruned layer, exactly.
    """

    kind: ClassVar[str]
    """Word for reports: ``conv``, ``linear``, ``rnn``, ``norm``, ``filterbank``..."""

    relation: ClassVar[Literal["maps", "through"]] = "maps"
    """``maps``: makes new channels from all inputs; ``through``: keeps each channel apart."""

    @abstractmethod
    def pruner(self, module: nn.Module) -> BasePruningFunc:
        """Return the torch-pruning functions that cut this layer."""

    def refuses(self, module: nn.Module) -> str | None:
        """Return why the channels of this layer cannot be cut, or None if they can."""
        return None

    def n_in(self, module: nn.Module) -> int:
        """Number of input channels of the layer."""
        return int(self.pruner(module).get_in_channels(module))

    def n_out(self, module: nn.Module) -> int:
        """Number of output channels of the layer."""
        return int(self.pruner(module).get_out_channels(module))

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """The parameters that this rule cuts and counts."""
        return list(module.parameters())

    def linear_views(self, module: nn.Module, side: Side) -> list[LinearView]:
        """The weights of one side as linear layers, if torch-pruning's importances need them so."""
        return []

    # -- labels -----------------------------------------------------------------------------------

    @abstractmethod
    def axis(self, module: nn.Module, tensor: Tensor) -> int:
        """Axis of ``tensor`` (an input or output of the layer) that holds the channels."""

    def output(self, output: Any) -> Tensor:
        """The tensor that carries the output channels, from what the layer returned."""
        first: Tensor = output[0] if isinstance(output, tuple) else output
        return first

    def output_index(self, module: nn.Module) -> list[int]:
        """For each position along the output axis, the output channel that it belongs to."""
        return list(range(self.n_out(module)))

    def ties(self, module: nn.Module) -> tuple[int, int]:
        """How many equal parts of the input and output channels must shrink alike (1: free)."""
        return 1, 1

    def units(self, module: nn.Module) -> tuple[int, int]:
        """For a layer that keeps channels apart: neighbouring inputs and outputs of one channel."""
        return 1, 1

    def sides(self, module: nn.Module) -> dict[str, tuple[Side, ...]]:
        """For each parameter that another layer may share, whose channels lie along each axis."""
        return {}

    # -- gates ------------------------------------------------------------------------------------

    def pools_channels(self, module: nn.Module) -> bool:
        """Whether statistics are taken over several channels (a closed one must not count)."""
        return False

    def reads(self, module: nn.Module) -> bool:
        """Whether the layer reads its input channels through weights that a gate can scale."""
        return self.relation == "maps"

    def consumes(self, module: nn.Module) -> bool:
        """Whether the layer ends the way of its channels, so that a gate in it closes them."""
        return self.relation == "maps" and self.reads(module)

    def mixes(self, module: nn.Module) -> bool:
        """Whether the layer can read a mixture of its input channels: ``mask_in`` as a matrix."""
        return False

    def remembers(self, module: nn.Module) -> bool:
        """Whether the layer reads its own output channels (recurrence)."""
        return False

    def run_gated(self, module: nn.Module, call: GatedCall) -> Any:
        """Run the layer as if the closed channels were not there.

        Args:
            module: The layer.
            call: One call of it, and the gates of its channels.

        Returns:
            What the layer returns; closed output channels hold values that nobody reads.
        """
        if call.mask_in is None:
            return call.plain()
        with swapped_parameters(module, self.gated_parameters(module, call.mask_in)):
            return call.plain()

    def gated_parameters(self, module: nn.Module, mask_in: Tensor) -> dict[str, Tensor]:
        """Parameters by dotted name, the slice that reads each channel scaled by its gate."""
        return {}

    # -- reconstruction ---------------------------------------------------------------------------

    def regression(self, module: nn.Module) -> Regression | None:
        """The layer as a linear function of its weights, or None if it is none."""
        return None

    # -- cost -------------------------------------------------------------------------------------

    def positions(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
        """Positions (batch x time ...) that one call works on; MACs are proportional to it."""
        tensor = self.output(output)
        return tensor.numel() // max(1, tensor.shape[self.axis(module, tensor)])

    def macs(self, module: nn.Module, positions: int, n_in: Count, n_out: Count) -> Count:
        """Multiply-accumulates with weights of one call, for any number of channels."""
        return n_out * 0

    @abstractmethod
    def params(self, module: nn.Module, n_in: Count, n_out: Count) -> Count:
        """Number of parameters for any number of channels."""


@contextmanager
def swapped_parameters(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module see other tensors in place of its parameters, for one call.

    Args:
        module: The module.
        tensors: Dotted parameter name to tensor; the parameters themselves are not touched.
    """
    saved: list[tuple[nn.Module, str, nn.Parameter | None]] = []
    try:
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            owner = module.get_submodule(path)
            saved.append((owner, leaf, owner._parameters[leaf]))
            owner._parameters[leaf] = tensor  # type: ignore[assignment]
        yield
    finally:
        for owner, leaf, parameter in saved:
            owner._parameters[leaf] = parameter


def masked(weight: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Scale the slices of ``weight`` along ``dim`` by ``mask`` of shape (weight.shape[dim],).

    A mask of shape (n, n), n = weight.shape[dim], mixes them: the layer reads ``mask @ x``.
    """
    if mask.dim() == 2:
        mask = mask.to(device=weight.device, dtype=weight.dtype)
        mixed = (weight.movedim(dim, -1) @ mask).movedim(-1, dim)
        # a convolution gives its output the layout that the strides of its weight suggest
        return torch.empty_like(weight, dtype=mixed.dtype).copy_(mixed)
    shape = [1] * weight.dim()
    shape[dim] = -1
    return weight * mask.to(device=weight.device, dtype=weight.dtype).view(shape)
