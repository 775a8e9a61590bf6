"""The steps that random networks are made of, one small class each.

A new kind of step is a class that derives from ``Step``: ``draw`` makes its layers from a few
choices for a tensor of one form, and says what form comes out; ``forward`` is what it does.
"""

from . import (  # each registers its steps
    attention,
    blocks,
    code,
    elements,
    gates,
    layers,
    norms,
    operations,
    positions,
    splitting,
    weights,
)
from .elements import Again
from .forms import WIDTHS, Form, Moved, Pick, Step, UnfitError

__all__ = [
    "WIDTHS",
    "Again",
    "Form",
    "Moved",
    "Pick",
    "Step",
    "UnfitError",
    "attention",
    "blocks",
    "code",
    "elements",
    "gates",
    "layers",
    "norms",
    "operations",
    "positions",
    "splitting",
    "weights",
]
