"""Models that a callable of the user's builds, named as ``module:function`` on a command line."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn

from sepprune_tp.errors import InputError

__all__ = ["build_from_factory", "is_factory"]

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:.*)?")


def is_factory(source: str) -> bool:
    """Whether a text is ``module:function`` or ``module:function:argument``."""
    return _SPEC.fullmatch(source) is not None


def build_from_factory(source: str) -> nn.Module:
    """Import a callable and let it build a model.

    The module is looked up as Python does, and last in the current folder.

    Args:
        source: ``module:function``, called without an argument, or ``module:function:argument``,
            called with the text after the second colon.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: If there is no such module or function, or it gives no ``nn.Module``.
    """
    module, name, *argument = source.split(":", 2)
    with _current_folder():
        factory = _attribute(_imported(module, source), name, source)
        built = factory if isinstance(factory, nn.Module) else _called(factory, argument, source)
    if not isinstance(built, nn.Module):
        raise InputError(
            f"{source} gave a {type(built).__name__}, not a torch.nn.Module. Name a function that "
            "returns the model itself."
        )
    return built.eval()


def _imported(module: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if module == missing or module.startswith(f"{missing}."):
            raise InputError(
                f"{source}: there is no module '{missing}', neither installed nor in "
                f"{os.getcwd()}. Run this in the folder that holds it, or set PYTHONPATH."
            ) from error
        raise InputError(f"{source}: importing {module} failed: {_story(error)}") from error
    except Exception as error:  # whatever other people's module raises
        raise InputError(f"{source}: importing {module} failed: {_story(error)}") from error


def _attribute(module: ModuleType, name: str, source: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            callables = [n for n, v in vars(found).items() if callable(v) and n[0] != "_"]
            listed = ", ".join(sorted(callables)[:12]) or "nothing that can be called"
            raise InputError(f"{source}: {module.__name__} has no '{part}'; it has {listed}.")
        found = getattr(found, part)
    return found


def _called(factory: Callable[..., Any], argument: list[str], source: str) -> Any:
    if not callable(factory):
        raise InputError(
            f"{source} is a {type(factory).__name__}, which cannot be called. Name a function that "
            "returns the model."
        )
    try:
        return factory(*argument)
    except Exception as error:  # whatever other people's function raises
        raise InputError(
            f"{source} failed: {_story(error)}. It is called "
            f"{f'with {argument[0]!r}' if argument else 'without an argument'}; for other "
            "arguments write a function of your own that passes them."
        ) from error


def _story(error: BaseException) -> str:
    """An exception of other people's code, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


@contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder as the last place to import from; a console script lacks it."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        for index in range(len(sys.path) - 1, -1, -1):
            if sys.path[index] == folder:
                del sys.path[index]
                break
