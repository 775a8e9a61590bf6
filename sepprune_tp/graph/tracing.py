"""What a trace knows of a layer, and what the rule of an operation may ask of the tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..layers import LayerRule
from .bare_tensors import BareTensors, Bundle
from .labels import Channels, LabelStore

__all__ = ["Rule", "Sites", "Tracing"]


@dataclass
class Sites:
    """Labels of one layer, by channel index.

    Attributes:
        rule: The layer's rule; None for a bare parameter.
        inputs: Label of each input channel, shape (n_in,), or None if the layer keeps channels
            apart (then ``outputs`` tells both).
        outputs: Label of each output channel, shape (n_out,), or None if they cannot be cut.
    """

    rule: LayerRule | None
    inputs: Tensor | None
    outputs: Tensor | None


class Tracing(Protocol):
    """What an operation's rule may use of the tracer."""

    store: LabelStore
    channels: Channels
    bare: BareTensors
    bundles: list[Bundle]
    scaling: list[Any]
    """What the cost of the running product goes with; see ``Tracer.products``."""

    def protect(self, labels: Sequence[Tensor], why: str) -> None:
        """Protect every channel in ``labels``; the place in the code is added to ``why``."""

    def suspect(self, labels: Sequence[Tensor], why: str) -> None:
        """Say what protects channels if the proof finds that they cannot be cut."""

    def gate(self, labels: Sequence[Tensor], why: str, pools: bool = False) -> None:
        """Let gates close channels in the running call; where they cannot, protect them."""

    def head_labels(self, rows: Tensor) -> Tensor | None:
        """Labels that stand for whole rows of channels, shape (rows,); None for a single row."""

    def met(self, tensor: Tensor, labels: Tensor) -> None:
        """A bare tensor met ``labels``, of the shape of the result, element by element."""

    def mark_positions(self, tensor: Tensor, labels: Tensor) -> None:
        """A tensor holds positions among channels: these are protected if it is used."""

    def bare_pooled(self, numbers: Tensor, dims: Sequence[int], name: str) -> None:
        """A bare tensor was pooled along some axes: channels that lie there are protected."""

    def bare_norm(self, tensors: Sequence[Any], labels: Tensor, axis: int, kind: str) -> None:
        """Bare tensors of an entry per channel scaled an axis of ``labels``."""

    def bare_product(
        self, activation: Tensor, weight: Tensor, labels: Tensor, kind: str
    ) -> Tensor | None:
        """A product (…, n, K) @ (…, K, J) with a bare weight: labels of (…, J)."""

    def looked_up(self, weight: Tensor, output: Tensor) -> bool:
        """Rows of the table of an embedding layer with a forward of its own; if it is one."""

    def convolved(self, named: dict[str, Any], output: Tensor) -> bool:
        """A convolution with a bare weight; whether it is one that is known."""

    def axis_split(self, labels: Tensor, axes: Sequence[int]) -> None:
        """A reshape made ``labels``, which change along several axes, of fewer channel axes."""

    def consumed(self, labels: Tensor) -> bool:
        """Whether a layer closes these channels for the product that they go into."""


Rule = Callable[[Tracing, Any, dict[str, Any], Any], None]
"""(tracer, operation, arguments by name, output) -> None; writes the labels of the output."""
