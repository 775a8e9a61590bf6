"""What the installed Asteroid lacks or gets wrong, mended where a user cannot.

Asteroid 0.7.0 computes the input size of DCCRNet's complex LSTM with NumPy, and torch refuses an
``input_size`` that is no Python integer, so that ``asteroid.models.DCCRNet`` cannot be built. And
its ``serialize()`` and ``from_pretrained`` know nothing of pruned models; see
``asteroid_serialized``. Once this package is imported both work, whichever of the two is imported
first; Asteroid itself is not imported for it, and nothing else in it changes.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["mend_asteroid"]


def mend_asteroid() -> None:
    """Let ``asteroid.models.DCCRNet`` be built and pruned models be shared.

    Now, or as soon as Asteroid is imported. Called once, on import of the package; calling it again
    does no harm.
    """
    for name, mend in _MENDS.items():
        module = sys.modules.get(name)
        if module is not None:
            mend(module)
        elif not any(isinstance(f, _AfterImport) and f.name == name for f in sys.meta_path):
            sys.meta_path.insert(0, _AfterImport(name, mend))


def _mend_sharing(module: Any) -> None:
    from sepprune_tp.architectures.asteroid_serialized import mend_sharing

    mend_sharing(module)


def _mend_dccrnet(module: Any) -> None:
    original = module.DCCRMaskNetRNN.__init__
    if getattr(original, "_sepprune", False):
        return

    @functools.wraps(original)
    def init(self: Any, in_size: int, *args: Any, **kwargs: Any) -> None:
        original(self, int(in_size), *args, **kwargs)

    init._sepprune = True  # type: ignore[attr-defined]
    module.DCCRMaskNetRNN.__init__ = init


class _AfterImport(MetaPathFinder):
    """Waits for a module, and mends it when it has been executed."""

    def __init__(self, name: str, mend: Callable[[ModuleType], None]) -> None:
        self.name, self.mend = name, mend

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module as if this finder were not there, with an errand for its loader."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.mend(module)

            loader.exec_module = exec_module
        return spec


_MENDS: dict[str, Callable[[ModuleType], None]] = {
    "asteroid.masknn.recurrent": _mend_dccrnet,
    "asteroid.models.base_models": _mend_sharing,
}
