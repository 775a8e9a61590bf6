"""A forward in place of a module's own, for a while, that copies of the module do not take over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["PatchedForward"]


class PatchedForward:
    """Calls a function in place of a module's forward.

    A plain closure would be shared by a deep copy of the module, which would go on computing with
    the weights of the original; a copy gets the forward of its own class instead.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        self._module, self._call = module, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo.get(id(self._module))
        return self if twin is None else type(twin).forward.__get__(twin)
