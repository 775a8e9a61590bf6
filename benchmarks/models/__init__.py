"""The backbones of the SepPrune paper, written from the papers that describe them.

``build("afrcnn-12")`` gives the paper's configuration; keyword arguments change any of its sizes.
All take a mixture (B, T) or (B, 1, T) at 16 kHz and return estimates (B, S, T).
"""

from __future__ import annotations

import inspect
from typing import Any

from sepprune_tp.errors import InputError

from .afrcnn import AFRCNN
from .masking import MaskingModel
from .published import PUBLISHED, Published, from_published
from .sudormrf import SuDoRMRF
from .tdanet import TDANet

__all__ = [
    "AFRCNN",
    "CONFIGURATIONS",
    "PUBLISHED",
    "MaskingModel",
    "Published",
    "SuDoRMRF",
    "TDANet",
    "build",
    "from_published",
]

CONFIGURATIONS: dict[str, tuple[type[MaskingModel], dict[str, int]]] = {
    "afrcnn-12": (
        AFRCNN,
        {
            "basis": 512,
            "kernel": 41,
            "bottleneck": 512,
            "hidden": 512,
            "depth": 4,
            "iterations": 12,
        },
    ),
    "afrcnn-16": (
        AFRCNN,
        {
            "basis": 512,
            "kernel": 41,
            "bottleneck": 512,
            "hidden": 512,
            "depth": 4,
            "iterations": 16,
        },
    ),
    "sudormrf": (
        SuDoRMRF,
        {"basis": 512, "kernel": 21, "bottleneck": 128, "hidden": 512, "depth": 5, "blocks": 16},
    ),
    "tdanet": (
        TDANet,
        {
            "kernel": 64,  # 4 ms
            "bottleneck": 128,
            "hidden": 512,
            "depth": 5,
            "iterations": 16,
            "heads": 8,
        },
    ),
    "tdanet-large": (
        TDANet,
        {
            "kernel": 32,  # 2 ms
            "bottleneck": 128,
            "hidden": 512,
            "depth": 5,
            "iterations": 16,
            "heads": 8,
        },
    ),
}
"""Class and sizes of each configuration in the paper, for two sources."""


def build(name: str, **overrides: int) -> MaskingModel:
    """Build a backbone with random weights.

    Args:
        name: A key of ``CONFIGURATIONS``.
        **overrides: Arguments of the class to change, such as ``hidden=64`` or ``sources=3``.

    Returns:
        The model, in training mode.

    Raises:
        InputError: If there is no such configuration or argument.

    Example:
        >>> small = build("sudormrf", hidden=16, bottleneck=8, basis=12, blocks=2)
        >>> sum(p.numel() for p in small.parameters())
        3577
    """
    if name not in CONFIGURATIONS:
        raise InputError(f"There is no backbone {name!r}; choose {', '.join(CONFIGURATIONS)}.")
    make, sizes = CONFIGURATIONS[name]
    known = list(inspect.signature(make).parameters)
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise InputError(
            f"{make.__name__} has no argument {', '.join(unknown)}; it has {', '.join(known)}."
        )
    arguments: dict[str, Any] = sizes | overrides
    return make(**arguments)
