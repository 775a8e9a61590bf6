"""What the names in a pickle of ``torch.save`` stand for: tensors, and plain data.

Checkpoints in the wild hold a few harmless things beside tensors and containers: the version of
torch, scores that are NumPy's numbers, paths, and what a command line was parsed to. All are made
by functions from here, so that none of another package is called by a file.
"""

from __future__ import annotations

import math
import struct
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BUILDERS", "MAKERS", "VALUES", "Storage", "fill"]

_NUMBERS = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}
"""NumPy's names of types, and those of ``struct``."""
_MOST = 1 << 31
"""Size of one axis of a tensor that holds nothing."""


@dataclass(frozen=True)
class Storage:
    """Numbers that tensors are views of.

    Attributes:
        data: All of them, one axis.
        spend: Called with the bytes of each tensor that is made of it; raises if they are too many.
    """

    data: Tensor
    spend: Callable[[int], None]


def fill(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Set items of a dict, whose keys are plain.

    Raises:
        ValueError: If a key is not.
    """
    for key, value in pairs:
        target[_key(key)] = value


def _key(key: Any) -> Any:
    """A number, a text, nothing, or a few of these: what can be hashed at once."""
    flat = key if isinstance(key, tuple) and len(key) < 10 else (key,)
    if not all(one is None or isinstance(one, (str, int, float, bytes)) for one in flat):
        raise ValueError(f"a key of a dict is a {type(key).__name__}")
    return key


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Stands for ``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    if not (isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)):
        raise ValueError("a tensor is not described")
    if len(size) != len(stride) or len(size) > 16 or not all(map(_whole, (offset, *size, *stride))):
        raise ValueError("a tensor has no shape")
    count, held = math.prod(size), storage.data
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (count and last >= held.numel()) or offset > held.numel() or max(size, default=0) > _MOST:
        raise ValueError(f"a tensor of the shape {size} claims more than its storage holds")
    storage.spend(count * held.element_size())
    found = held.as_strided(size, stride if count else _usual(size), offset if count else 0)
    return found.requires_grad_() if rest[:1] == (True,) and _real(found) else found


def _usual(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 for _ in size)


def _real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _parameter(data: Any, requires_grad: Any = True, *rest: Any) -> nn.Parameter:
    """Stands for ``torch._utils._rebuild_parameter``."""
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is no tensor")
    return nn.Parameter(data.detach(), requires_grad=requires_grad is True and _real(data))


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    found: OrderedDict[Any, Any] = OrderedDict()
    fill(found, _pairs(pairs))
    return found


def _pairs(pairs: Any) -> Iterable[tuple[Any, Any]]:
    listed = isinstance(pairs, (list, tuple))
    if not listed or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise ValueError("an OrderedDict is not made of pairs")
    return [(key, value) for key, value in pairs]


def _describe(states: OrderedDict[Any, Any], told: Any) -> None:
    """Versions of modules, which ``state_dict()`` keeps as an attribute of its result."""
    metadata = told.get("_metadata", {}) if isinstance(told, Mapping) else None
    if not isinstance(metadata, Mapping) or not all(map(_versions, metadata.values())):
        raise ValueError("what an OrderedDict holds beside its items is not plain")
    states._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]


def _versions(told: Any) -> bool:
    return isinstance(told, Mapping) and all(
        isinstance(key, str) and (value is None or isinstance(value, int))
        for key, value in told.items()
    )


def _counter(counts: Any = MappingProxyType({})) -> Counter[Any]:
    if not isinstance(counts, Mapping) or not all(isinstance(n, int) for n in counts.values()):
        raise ValueError("a Counter does not count")
    return Counter({_key(key): count for key, count in counts.items()})


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise ValueError("a set is not made of a list")
    return {_key(item) for item in items}


def _size(sizes: Any = ()) -> torch.Size:
    if not isinstance(sizes, (list, tuple)) or not all(map(_whole, sizes)):
        raise ValueError("a shape is not made of numbers")
    return torch.Size(sizes)


def _device(name: Any, index: Any = None) -> torch.device:
    if not isinstance(name, str) or not (index is None or (_whole(index) and index < 128)):
        raise ValueError("a device is not named")
    try:
        return torch.device(name) if index is None else torch.device(name, index)
    except RuntimeError as error:
        raise ValueError("a device is of no kind that torch knows") from error


def _encoded(text: Any, coding: Any = "") -> bytes:
    """Stands for ``_codecs.encode``, which bytes are written with."""
    if not isinstance(text, str) or coding != "latin1":
        raise ValueError("bytes are not written as bytes")
    return text.encode("latin1")


def _bytes(text: Any = "", coding: Any = "latin-1") -> bytes:
    """Stands for ``bytearray``."""
    if isinstance(text, bytes):
        return text
    return _encoded(text, "latin1" if coding == "latin-1" else "")


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise ValueError("a complex number is not made of two")
    return complex(real, imaginary)


def _text(text: Any = "") -> str:
    """Stands for ``torch.torch_version.TorchVersion``."""
    if not isinstance(text, str):
        raise ValueError("a version is no text")
    return text


def _namespace() -> Namespace:
    return Namespace()


def _set_names(namespace: Namespace, values: Any) -> None:
    plain = isinstance(values, dict) and all(isinstance(n, str) and n[:2] != "__" for n in values)
    if not plain:
        raise ValueError("a Namespace does not hold names")
    vars(namespace).update(values)


class _Dtype:
    """Stands for ``numpy.dtype`` of a number."""

    def __init__(self, name: Any = "", align: Any = False, copy: Any = False) -> None:
        self.name, self.order = name, "<"


def _dtype(name: Any = "", align: Any = False, copy: Any = False) -> _Dtype:
    return _Dtype(name if isinstance(name, str) else "")


def _set_order(dtype: _Dtype, state: Any) -> None:
    if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
        dtype.order = state[1]


def _scalar(dtype: Any, data: Any = b"") -> float | int | bool:
    """Stands for the function that makes a NumPy number of its bytes."""
    form = _NUMBERS.get(dtype.name) if isinstance(dtype, _Dtype) else None
    if form is None or not isinstance(data, bytes) or struct.calcsize(form) != len(data):
        raise ValueError("holds a NumPy value that is no number")
    number: float | int | bool = struct.unpack(dtype.order + form, data)[0]
    return number


def _joined(*parts: Any) -> str:
    """Stands for the classes of ``pathlib``."""
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a path is not made of texts")
    return str(PurePosixPath(*parts))


_STORAGES = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16},
    **{"Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
    **{"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128},
}
VALUES: dict[str, Any] = {
    **{f"{m}.{n}Storage": t for n, t in _STORAGES.items() for m in ("torch", "torch.cuda")},
    **{str(dtype): dtype for dtype in _STORAGES.values()},
}
"""What a name is by itself: types of numbers, which kinds of storages stand for, too."""

MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.torch_version.TorchVersion": _text,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytes,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "argparse.Namespace": _namespace,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    **{
        f"{module}.{name}": _joined
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")
    },
}
"""What makes something of arguments."""

BUILDERS: dict[type, Callable[[Any, Any], None]] = {
    OrderedDict: _describe,
    Namespace: _set_names,
    _Dtype: _set_order,
}
"""What gives something its state, by its type."""
