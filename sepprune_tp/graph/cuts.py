"""Who must know when channels of a model are cut: scores that are kept by channel index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary, WeakMethod

from torch import nn

__all__ = ["Cut", "publish", "subscribe"]


@dataclass(frozen=True)
class Cut:
    """Channels that were removed from one side of one layer.

    Attributes:
        layer: Dotted name in the model.
        side: ``in`` or ``out``.
        indices: Channel indices before the cut.
    """

    layer: str
    side: str
    indices: list[int]


Listener = Callable[[Cut], None]
_LISTENERS: WeakKeyDictionary[nn.Module, list[WeakMethod[Listener]]] = WeakKeyDictionary()


def subscribe(model: nn.Module, listener: Listener) -> None:
    """Call a bound method with every later cut of ``model``, as long as its object lives."""
    _LISTENERS.setdefault(model, []).append(WeakMethod(listener))


def publish(model: nn.Module, cut: Cut) -> None:
    """Tell everyone who listens to ``model``."""
    references = _LISTENERS.get(model, [])
    references[:] = [reference for reference in references if reference() is not None]
    for reference in references:
        listener = reference()
        if listener is not None:
            listener(cut)
