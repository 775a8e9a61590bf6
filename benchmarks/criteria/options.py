"""Options of criteria: small dataclasses that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

__all__ = ["OptionError", "one_of", "positive", "read"]

Kind = TypeVar("Kind")


class OptionError(ValueError):
    """An option that a criterion does not have, or a value that it cannot take."""


def read(kind: type[Kind], options: Mapping[str, Any]) -> Kind:
    """Make a criterion's options of an experiment's configuration.

    A field whose name ends with an underscore (``global_``) is written without it.

    Args:
        kind: A frozen dataclass whose fields all have defaults.
        options: Values by name.

    Raises:
        OptionError: If a name is unknown, a value is of another type than its default, or the
            dataclass refuses it.
    """
    defaults = {f.name.rstrip("_"): (f.name, f.default) for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(defaults)):
        known = ", ".join(f"{name} ({default!r})" for name, (_, default) in defaults.items())
        raise OptionError(f"no option {', '.join(unknown)}; there are {known or 'none'}")
    given = {}
    for name, value in options.items():
        field, default = defaults[name]
        wanted = type(default)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise OptionError(f"{name}={value!r} is not of type {wanted.__name__}")
        given[field] = value
    return kind(**given)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among those allowed.

    Raises:
        OptionError: With the list of them.
    """
    if value not in allowed:
        raise OptionError(f"{name}={value!r}; it is one of {', '.join(map(repr, allowed))}")


def positive(**values: float) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        OptionError: With the name of the first.
    """
    for name, value in values.items():
        if not value > 0:
            raise OptionError(f"{name}={value!r} has to be above 0")
