"""Warnings to the user, shown at the line of the user's code that led to them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch_pruning

__all__ = ["advise"]

_INSIDE = tuple(f"{Path(file).parent}/" for file in (__file__, str(torch_pruning.__file__)))


def advise(message: str) -> None:
    """Warn at the innermost line that is neither this package's nor torch-pruning's.

    Args:
        message: What is not as the user may think, why, and what to do about it.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
