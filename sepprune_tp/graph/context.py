"""Lend the channel graph to torch-pruning's own pruners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch_pruning import dependency

from .channel_graph import ChannelGraph
from .scope import Scope

__all__ = ["channel_graph", "is_lent"]

_THEIRS = dependency.DependencyGraph


def is_lent() -> bool:
    """Whether a torch-pruning pruner that is built now gets our graph."""
    return dependency.DependencyGraph is not _THEIRS


class _LentGraph(ChannelGraph):
    """A graph that knows how its model is called and what of the outputs counts."""

    def __init__(self, scope: Scope, **options: Any) -> None:
        super().__init__(scope)
        self._options = options

    def build_dependency(self, model: nn.Module, *args: Any, **options: Any) -> ChannelGraph:
        """Build; what the pruner was not given itself is as this graph was lent."""
        given = {name: value for name, value in options.items() if value is not None}
        return super().build_dependency(model, *args, **{**self._options, **given})


@contextmanager
def channel_graph(
    scope: Scope = "separator",
    *,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    output_transform: Callable[[Any], Any] | None = None,
) -> Iterator[None]:
    """Give our graph to every torch-pruning pruner that is built inside.

    Args:
        scope: The scope of those graphs.
        forward_fn: Calls the model on the example, for pruners that are not given their own.
        output_transform: Applied to the outputs before they protect the channels that they hold,
            for pruners that are not given their own.

    Example:
        >>> import torch_pruning as tp
        >>> with channel_graph(scope="all"):  # doctest: +SKIP
        ...     pruner = tp.pruner.MetaPruner(model, x, tp.importance.RandomImportance())
    """
    options = {"forward_fn": forward_fn, "output_transform": output_transform}
    plain = forward_fn is None and output_transform is None
    theirs = dependency.DependencyGraph
    dependency.DependencyGraph = lambda: (
        ChannelGraph(scope) if plain else _LentGraph(scope, **options)
    )
    try:
        yield
    finally:
        dependency.DependencyGraph = theirs
