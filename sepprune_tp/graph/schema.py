"""Arguments of ATen operations by the names of their schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["arguments"]


@cache
def _defaults(operation: Any) -> dict[str, Any]:
    return {
        argument.name: argument.default_value if argument.has_default_value() else None
        for argument in operation._schema.arguments
    }


def arguments(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of one call by name, defaults included.

    Args:
        operation: An operation (overload) of ``torch.ops.aten``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        A value for every argument of the schema.
    """
    defaults = _defaults(operation)
    return {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
