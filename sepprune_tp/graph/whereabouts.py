"""Where in a model a trace is: the module that runs, and the line of the model's own code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from .labels import Channels, Place

__all__ = ["FOREIGN", "Whereabouts"]

FOREIGN = tuple(  # neither our files nor torch's are the model's own, by whatever path
    f"{path}{os.sep}"
    for file, above in ((__file__, 1), (torch.__file__, 0))
    for path in (Path(file).parents[above], Path(file).resolve().parents[above])
)


class Whereabouts:
    """The modules that are running, and the operation or kind of layer that is being followed."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        """Start outside of all modules; ``names`` has those that will run."""
        self._names = names
        self._running: list[nn.Module] = []
        self._doing = "call"
        self._number: int | None = None

    def enter(self, module: nn.Module) -> None:
        """A module starts to run."""
        self._running.append(module)

    def leave(self) -> None:
        """The module that started last has run."""
        self._running.pop()

    def module(self) -> nn.Module | None:
        """The module whose code runs; None outside of all."""
        return self._running[-1] if self._running else None

    def follow(self, doing: str) -> None:
        """An operation, or a layer of a kind, is followed from here on."""
        self._doing, self._number = doing, None

    def place(self) -> Place:
        """What is followed, the module that runs it, and file and line of the model's own code."""
        module = self._names.get(self._running[-1], "") if self._running else ""
        frame = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if not path.startswith((*FOREIGN, "<")):
                return Place(self._doing, module, f"{Path(path).name}:{frame.f_lineno}")
            frame = frame.f_back  # type: ignore[assignment]
        return Place(self._doing, module, "")

    def number_in(self, channels: Channels) -> int:
        """Number of the place of what is followed; the stack is walked once for each."""
        if self._number is None:
            self._number = channels.new_place(self.place())
        return self._number

    def __str__(self) -> str:
        place = self.place()
        return f"in '{place.module or 'the model'}'" + (f" ({place.line})" if place.line else "")
