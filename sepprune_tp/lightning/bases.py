"""Classes that both of Lightning's packages take for callbacks of their own.

``lightning`` and ``pytorch_lightning`` are one library under two names, with classes of their own
each: a trainer of one refuses a callback of the other. Asteroid's ``System`` is of the second.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from typing import Any, TypeVar

from sepprune_tp.errors import require

__all__ = ["callback_class"]

T = TypeVar("T")
_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def callback_class(own: type[T]) -> type[T]:
    """A subclass that is a callback of each of the packages that are imported.

    Args:
        own: Implements hooks.

    Returns:
        The subclass; if neither is imported yet, of the one that is installed.

    Raises:
        MissingExtraError: If neither is installed.
    """
    loaded = tuple(name for name in _PACKAGES if name in sys.modules)
    given: Any = own
    made: type[T] = _made(given, loaded or (_installed(),))
    return made


@cache
def _made(own: Any, packages: tuple[str, ...]) -> Any:
    with warnings.catch_warnings():  # Lightning's imports warn about their own dependencies
        warnings.simplefilter("ignore")
        bases = [require(name, "train", own.__name__).Callback for name in packages]
    return type(own.__name__, (own, *bases), {"__module__": own.__module__, "__doc__": own.__doc__})


def _installed() -> str:
    found = importlib.util.find_spec("lightning")
    return _PACKAGES[0 if found is not None or not importlib.util.find_spec(_PACKAGES[1]) else 1]
