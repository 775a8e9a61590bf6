"""What the installed Asteroid gets wrong in its own constructors, mended where a user cannot."""

from __future__ import annotations

import functools
from typing import Any

from ..errors import require

__all__ = ["mend_asteroid"]


def mend_asteroid() -> None:
    """Let ``asteroid.models.DCCRNet`` be built.

    Asteroid 0.7.0 computes the input size of its complex LSTM with NumPy, and torch refuses an
    ``input_size`` that is no Python integer. Loading a model or building a graph of one does this
    by itself; call it before ``DCCRNet(...)`` or ``DCCRNet.from_pretrained(...)`` in your own code.
    Nothing else changes, and calling it twice does no harm.

    Raises:
        MissingExtraError: If Asteroid cannot be imported.

    Example:
        >>> mend_asteroid()  # doctest: +SKIP
        >>> from asteroid.models import DCCRNet  # doctest: +SKIP
        >>> model = DCCRNet("DCCRN-CL")  # doctest: +SKIP
    """
    recurrent = require("asteroid.masknn.recurrent", "asteroid", "Mending Asteroid's DCCRNet")
    original = recurrent.DCCRMaskNetRNN.__init__
    if getattr(original, "_sepprune", False):
        return

    @functools.wraps(original)
    def init(self: Any, in_size: int, *args: Any, **kwargs: Any) -> None:
        original(self, int(in_size), *args, **kwargs)

    init._sepprune = True  # type: ignore[attr-defined]
    recurrent.DCCRMaskNetRNN.__init__ = init
