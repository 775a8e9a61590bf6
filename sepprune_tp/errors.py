"""Errors that sepprune_tp raises: one base class, each also the builtin that it refines.

A message says what happened, where, the likely cause, and what to do about it.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = [
    "BudgetError",
    "BusyError",
    "CheckpointError",
    "DataError",
    "GraphError",
    "InputError",
    "MissingExtraError",
    "NotLearnedError",
    "SearchError",
    "SepPruneError",
    "WriteError",
    "require",
]


class SepPruneError(Exception):
    """Base class of every error that this package raises on purpose."""


class InputError(SepPruneError, ValueError):
    """An argument has the wrong type, shape, name or value."""


class DataError(SepPruneError, ValueError):
    """A batch, a recording or a folder of recordings cannot be used."""


class GraphError(SepPruneError, ValueError):
    """The channel graph cannot be built or does not hold what was asked of it."""


class BudgetError(SepPruneError, ValueError):
    """A budget is malformed or out of reach."""


class NotLearnedError(SepPruneError, RuntimeError):
    """Importance was asked for before any gates were learned."""


class SearchError(SepPruneError, RuntimeError):
    """The search or the recovery cannot go on (NaN, no batches, ...)."""


class CheckpointError(SepPruneError, ValueError):
    """A file is not ours, is truncated, or comes from a newer version."""


class WriteError(CheckpointError, OSError):
    """A file cannot be written (disk full, no permission, a folder in its place...)."""


class BusyError(SepPruneError, RuntimeError):
    """Another process works on the same file."""


class MissingExtraError(SepPruneError, ImportError):
    """A feature needs a package that an optional extra installs."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency or say which extra installs it.

    Args:
        module: Dotted name of the module to import.
        extra: Name of the extra of ``sepprune-tp`` that installs it.
        purpose: What it is needed for, for the message.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: If the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package '{module.partition('.')[0]}', which could not be "
            f"imported ({error}). Install it with: pip install 'sepprune-tp[{extra}]'"
        ) from error
