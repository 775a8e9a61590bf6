"""Where gates take hold of a model; see :mod:`sepprune_tp.graph.gating`."""

from __future__ import annotations

from ..graph.gating import (
    GatedLayer,
    check_fits,
    gated_layers,
    gated_places,
    patch,
    patch_code,
    unpatch,
    unpatch_code,
)

__all__ = [
    "GatedLayer",
    "check_fits",
    "gated_layers",
    "gated_places",
    "patch",
    "patch_code",
    "unpatch",
    "unpatch_code",
]
