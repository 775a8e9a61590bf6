"""Callbacks that both of Lightning's packages take for their own, and modules that one does.

``lightning`` and ``pytorch_lightning`` are one library under two names, with classes of their own
each: a trainer of one refuses what is made for the other. Asteroid's ``System`` is of the second.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sepprune_tp.errors import InputError, require

if TYPE_CHECKING:
    from typing import Self

__all__ = ["OfOnePackage", "callback_class", "module_class"]

T = TypeVar("T")
_PACKAGES = {"pytorch_lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}


class OfOnePackage:
    """Base of modules, and of subclasses of them, that are of the package asked for when made."""

    def __new__(cls, *args: Any, package: str | None = None, **kwargs: Any) -> Self:
        """Make a module of one of Lightning's packages."""
        made = any(base.__name__ == "LightningModule" for base in cls.__mro__)
        return object.__new__(cls if made else module_class(cls, package))


def callback_class(own: type[T]) -> type[T]:
    """A subclass that is a callback of each of the packages that are imported.

    Args:
        own: Implements hooks.

    Returns:
        The subclass; if neither is imported yet, of the one that is installed.

    Raises:
        MissingExtraError: If neither is installed.
    """
    given: Any = own
    made: type[T] = _made(given, "Callback", tuple(_loaded()) or (_installed(),))
    return made


def module_class(own: type[T], package: str | None) -> type[T]:
    """A subclass that is a LightningModule of one package; it cannot be of both.

    Args:
        own: Implements hooks.
        package: ``lightning`` or ``pytorch_lightning``; None: the one that is imported, and of
            both Asteroid's, ``pytorch_lightning``.

    Raises:
        InputError: If it is none of these.
        MissingExtraError: If it is not installed.
    """
    if package is not None and package not in _PACKAGES:
        raise InputError(
            f"package={package!r}: give 'lightning' or 'pytorch_lightning', whose Trainer is to "
            f"take the {own.__name__}."
        )
    name = package or next(iter(_loaded()), _installed())
    given: Any = own
    made: type[T] = _made(given, "LightningModule", (name,))
    return made


@cache
def _made(own: Any, base: str, packages: tuple[str, ...]) -> Any:
    with warnings.catch_warnings():  # Lightning's imports warn about their own dependencies
        warnings.simplefilter("ignore")
        modules = [require(_PACKAGES[name], "train", own.__name__) for name in packages]
    bases = [getattr(module, base) for module in modules]
    return type(own.__name__, (own, *bases), {"__module__": own.__module__, "__doc__": own.__doc__})


def _loaded() -> list[str]:
    return [name for name, module in _PACKAGES.items() if module in sys.modules]


def _installed() -> str:
    found = [name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)]
    return (*found, "lightning")[0]
