"""Lend the channel graph to torch-pruning's own pruners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch_pruning import dependency

from .channel_graph import ChannelGraph
from .scope import Scope

__all__ = ["channel_graph", "is_lent"]

_THEIRS = dependency.DependencyGraph


def is_lent() -> bool:
    """Whether a torch-pruning pruner that is built now gets our graph."""
    return dependency.DependencyGraph is not _THEIRS


@contextmanager
def channel_graph(scope: Scope = "separator") -> Iterator[None]:
    """Give our graph to every torch-pruning pruner that is built inside.

    Args:
        scope: The scope of those graphs.

    Example:
        >>> import torch_pruning as tp
        >>> with channel_graph(scope="all"):  # doctest: +SKIP
        ...     pruner = tp.pruner.MetaPruner(model, x, tp.importance.RandomImportance())
    """
    theirs = dependency.DependencyGraph
    dependency.DependencyGraph = lambda: ChannelGraph(scope)
    try:
        yield
    finally:
        dependency.DependencyGraph = theirs
