"""Small configurations of the paper's backbones, for the invariants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from benchmarks.models import build

_SMALL = {"kernel": 8, "bottleneck": 7, "hidden": 6, "depth": 3}
_ODD = {**_SMALL, "kernel": 9, "basis": 10}

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "AFRCNN": partial(build, "afrcnn-12", iterations=2, **_ODD),
    "SuDoRMRF": partial(build, "sudormrf", blocks=2, sources=3, **_ODD),
    "TDANet": partial(build, "tdanet", iterations=2, heads=2, **_SMALL),
}
