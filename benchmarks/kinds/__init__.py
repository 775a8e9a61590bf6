"""The kinds of experiments: how each is run, and how its section of the results is written."""

from __future__ import annotations

from . import audible, dense, deploy, grid, script, stability, targets
from .base import Kind

__all__ = ["KINDS", "Kind"]

KINDS: dict[str, Kind] = {
    "dense": dense.KIND,
    "quality": grid.kind("quality"),
    "curves": grid.kind("curves"),
    "ablation": grid.kind("ablation"),
    "recovery": grid.kind("recovery"),
    "published": grid.kind("published"),
    "stability": stability.KIND,
    "audible": audible.KIND,
    "deploy": deploy.KIND,
    "script": script.KIND,
    "targets": targets.KIND,
}
"""By the ``kind`` of a configuration."""
