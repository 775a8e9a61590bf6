"""Parts of a model that run without Python: recorded once, frozen."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from .._optimised import ForRunning

__all__ = ["Recorded", "recordable"]

_FEWEST = 8  # modules in a part that is worth recording


class Recorded(ForRunning):
    """A module as TorchScript, recorded on what it is given first, its weights made constants.

    Branches and sizes that Python decided are those of the recording: only
    :func:`sepprune_tp.optimize_for_inference` makes one, which compares it on other lengths.

    Args:
        module: Takes tensors by position and returns tensors.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.eval()
        self._script: list[Any] = []  # a list: not a part of the model

    def forward(self, *args: Any) -> Any:
        """As the module."""
        if not self._script:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of every size that is fixed: compared later
                traced = torch.jit.trace(self.module, args, check_trace=False)
                self._script.append(torch.jit.freeze(traced))
        return self._script[0](*args)


def recordable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The direct parts of a model that hold many modules, by name."""
    return [
        (name, part)
        for name, part in model.named_children()
        if sum(1 for _ in part.modules()) >= _FEWEST and not isinstance(part, Recorded)
    ]
