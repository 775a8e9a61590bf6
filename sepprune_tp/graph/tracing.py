"""What a trace knows of a layer, and what the rule of an operation may ask of the tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..layers import LayerRule
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

    def protect(self, labels: Sequence[Tensor], why: str) -> None:
        """Protect every channel in ``labels``; the place in the code is added to ``why``."""

    def leave_ungated(self, labels: Sequence[Tensor], why: str) -> None:
        """Let channels be cut but not gated; the place in the code is added to ``why``."""

    def parameter_met(self, tensor: Tensor, labels: Tensor) -> None:
        """A bare parameter met ``labels`` (broadcast to a common shape) element by element."""

    def derived(self, tensor: Tensor, output: Tensor) -> None:
        """``output`` is a function of a bare parameter, element by element."""

    def axis_split(self, labels: Tensor, axes: Sequence[int]) -> None:
        """A reshape made ``labels``, which change along several axes, of fewer channel axes."""

    def consumed(self, labels: Tensor) -> bool:
        """Whether a layer closes these channels for the product that they go into."""

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the model (or a view of one)."""


Rule = Callable[[Tracing, Any, tuple[Any, ...], dict[str, Any], Any], None]
"""(tracer, operation, args, kwargs, output) -> None; writes the labels of the output."""
