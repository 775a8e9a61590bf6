"""Files of ``torch.save``, read as tensors and plain data: nothing in them is executed.

torch's own restricted reader lets tensors and containers through. Checkpoints in the wild hold a
few harmless things more: the version of torch, scores that are NumPy's numbers, paths, and what a
command line was parsed to. They are read by stand-ins from here, so that no function of another
package is called by a file.
"""

from __future__ import annotations

import struct
import warnings
from argparse import Namespace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.torch_version import TorchVersion

from sepprune_tp.errors import CheckpointError

__all__ = ["read_plain"]

_NUMBERS = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}
"""NumPy's names of types, and those of ``struct``."""


def read_plain(path: Path) -> Any:
    """The content of a file of ``torch.save``.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, numbers, texts and containers of these.

    Raises:
        CheckpointError: If it holds anything else, which is not executed, or is damaged.
    """
    with torch.serialization.safe_globals(list(_ALLOWED)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds on files that are not its own
            raise CheckpointError(_refusal(path, str(error) or type(error).__name__)) from error


def _refusal(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        return (
            f"{path} is a TorchScript archive, a program whose layers cannot be taken apart. Give "
            "the model that it was scripted from."
        )
    return (
        f"{path} cannot be read as tensors and plain data ({reason.splitlines()[0]}). It is "
        "truncated, not a file of torch.save, or holds Python objects, which are not loaded for "
        "safety: loading them would run code from the file. Where you trust it, load it yourself "
        "and save model.serialize() or use save_pruned."
    )


class _Dtype:
    """Stands for ``numpy.dtype`` of a number."""

    def __init__(self, name: str = "", align: bool = False, copy: bool = False) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def _scalar(dtype: Any, data: Any = b"") -> float | int | bool:
    """Stands for the function that makes a NumPy number of its bytes."""
    form = _NUMBERS.get(dtype.name) if isinstance(dtype, _Dtype) else None
    if form is None or not isinstance(data, bytes):
        raise ValueError("holds a NumPy value that is no number")
    number: float | int | bool = struct.unpack(dtype.order + form, data)[0]
    return number


def _joined(*parts: str) -> str:
    """Stands for the classes of ``pathlib``."""
    return str(PurePosixPath(*map(str, parts)))


_ALLOWED: tuple[Any, ...] = (
    TorchVersion,
    Namespace,
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    *(
        (_joined, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")
    ),
)
