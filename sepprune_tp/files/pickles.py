"""The pickles of ``torch.save``, read as plain data: nothing that they name is looked up or called.

A pickle is a program for a small machine. This one knows only the operations that ``torch.save``
uses, and makes tensors and plain data from a table of its own; whatever else a pickle names or asks
for is refused. ``torch.load(weights_only=True)`` executes nothing either, but lets a few bytes
stand for gigabytes: packed records, ``bytearray(n)``, tensors of one number expanded without end.
"""

from __future__ import annotations

import pickletools
from collections import Counter
from collections.abc import Callable
from typing import IO, Any

from sepprune_tp.files.extent import is_bounded
from sepprune_tp.files.pickled import BUILDERS, MAKERS, VALUES, fill

__all__ = ["Refused", "read_pickle"]

_MARK: Any = object()
_SHARED = 100
"""How many times more values than a pickle has operations it may hold by naming one many times."""
_PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(ValueError):
    """A pickle holds more than tensors and plain data, or is damaged."""


def read_pickle(file: IO[bytes], storage: Callable[[tuple[Any, ...]], Any]) -> Any:
    """Read one pickle.

    Args:
        file: Where it begins; left where it ends.
        storage: Gives what stands for a storage of tensors; called with what the pickle says of it.

    Returns:
        Tensors, numbers, texts and containers of these, none of them deep.

    Raises:
        Refused: If it holds anything else, or is damaged.
    """
    machine = _Machine(storage)
    count = 0
    for operation, argument, _ in pickletools.genops(file):
        count += 1
        machine.do(operation.name, argument)
    found = machine.pop()
    if not is_bounded(found, _SHARED * count + 1000):
        raise Refused("it holds containers in containers beyond measure")
    return found


class _Machine:
    """A stack, and values that were noted by number."""

    def __init__(self, storage: Callable[[tuple[Any, ...]], Any]) -> None:
        self._stack: list[Any] = []
        self._noted: dict[int, Any] = {}
        self._storage = storage

    def pop(self) -> Any:
        """Take the last value."""
        if not self._stack or self._stack[-1] is _MARK:
            raise Refused("it is damaged: a value is missing")
        return self._stack.pop()

    def do(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name == "MARK":
            self._stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._noted[argument] = self._last()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self._noted:
                raise Refused("it is damaged: a value is missing")
            self._stack.append(self._noted[argument])
        elif name in _TUPLES:
            parts = [self.pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(parts)))
        elif name == "TUPLE":
            self._stack.append(tuple(self._since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self._since_mark()
            self._container(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._since_mark() if name == "SETITEMS" else self._pair())
        elif name == "BINPERSID":
            said = self.pop()
            if not isinstance(said, tuple):
                raise Refused("it is damaged: a storage is not described")
            self._stack.append(self._storage(said))
        elif name == "GLOBAL":
            self._stack.append(_known(argument))
        elif name in ("REDUCE", "NEWOBJ"):
            given, maker = self.pop(), self.pop()
            self._stack.append(_made(maker, given))
        elif name == "BUILD":
            state, built = self.pop(), self._last()
            _build(built, state)
        elif name not in ("PROTO", "STOP"):
            raise Refused(f"it uses the operation {name}, which torch.save does not")

    def _last(self) -> Any:
        self._stack.append(found := self.pop())
        return found

    def _pair(self) -> list[Any]:
        value = self.pop()
        return [self.pop(), value]

    def _since_mark(self) -> list[Any]:
        """All values since the last mark, which goes with them."""
        items = []
        while self._stack and self._stack[-1] is not _MARK:
            items.append(self._stack.pop())
        if not self._stack:
            raise Refused("it is damaged: a mark is missing")
        self._stack.pop()
        return items[::-1]

    def _container(self, kind: type) -> Any:
        found = self._last()
        if not isinstance(found, kind):
            raise Refused(f"it is damaged: a {kind.__name__} is missing")
        return found

    def _set_items(self, items: list[Any]) -> None:
        target = self._container(dict)
        if len(items) % 2 or isinstance(target, Counter):
            raise Refused("it is damaged: a key is without a value")
        fill(target, zip(items[::2], items[1::2], strict=True))


def _known(name: str) -> Any:
    """What stands for a class or a function that a pickle names."""
    module, _, rest = name.partition(" ")
    full = f"{'builtins' if module == '__builtin__' else module}.{rest}"
    if full in VALUES:
        return VALUES[full]
    if full in MAKERS:
        return MAKERS[full]
    raise Refused(f"it names {full[:120]}")


def _made(maker: Any, given: Any) -> Any:
    if not any(maker is one for one in MAKERS.values()) or not isinstance(given, tuple):
        raise Refused("it calls what is not to be called")
    return maker(*given)


def _build(built: Any, state: Any) -> None:
    builder = BUILDERS.get(type(built))
    if builder is None:
        raise Refused(f"it sets the state of a {type(built).__name__}")
    builder(built, state)
