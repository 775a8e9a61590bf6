"""Files of ``torch.save``, read as tensors and plain data: nothing in them is executed.

Both formats: the ZIP archive (``data.pkl`` and one record a storage) and, before torch 1.6, pickles
with the storages behind them. A storage is read only if the file is large enough to hold it.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from sepprune_tp.errors import CheckpointError
from sepprune_tp.files.pickled import Storage
from sepprune_tp.files.pickles import Refused, read_pickle

__all__ = ["read_plain"]

_LEGACY = 0x1950A86A20F9469CFC6C
"""What a file without an archive begins with, as a pickled number."""
_OFTEN = 8
"""How many times over a file's tensors may share what it holds..."""
_FREE = 1 << 26
"""...in bytes beyond this."""


def read_plain(path: Path) -> Any:
    """The content of a file of ``torch.save``.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, numbers, texts and containers of these. No tensor is larger than the
        file.

    Raises:
        CheckpointError: If it holds anything else, which is not executed, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _Archive(file).read()
            file.seek(0)
            return _read_legacy(file)
    except Exception as error:  # a damaged file makes zipfile and pickletools raise many kinds
        raise CheckpointError(_refusal(path, str(error) or type(error).__name__)) from error


def _refusal(path: Path, reason: str) -> str:
    if "TorchScript" in reason:
        return (
            f"{path} is a TorchScript archive, a program whose layers cannot be taken apart. Give "
            "the model that it was scripted from."
        )
    return (
        f"{path} cannot be read as tensors and plain data ({reason.splitlines()[0][:300]}). It is "
        "truncated, not a file of torch.save, or holds Python objects, which are not loaded for "
        "safety: loading them would run code from the file. Where you trust it, load it yourself "
        "and save model.serialize() or use save_pruned."
    )


class _Archive:
    """A ZIP archive whose records are stored as they are, as torch writes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        entries = zipfile.ZipFile(file).infolist()
        self._entries = {entry.filename: entry for entry in entries}
        if any(name.endswith("/constants.pkl") for name in self._entries):
            raise Refused("it is a TorchScript archive")
        self._size = os.fstat(file.fileno()).st_size
        if len(self._entries) != len(entries) or any(
            entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries
        ):
            raise Refused("its records are packed, encrypted or of one name, which torch's are not")
        if sum(entry.file_size for entry in entries) > self._size:
            raise Refused("its records are larger than the file")
        self._storages: dict[str, Storage] = {}
        self._spend = _spender(self._size)

    def read(self) -> Any:
        """What the archive holds."""
        names = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(names) != 1 or names[0].count("/") != 1:
            raise Refused("it has no record data.pkl")
        self._folder = names[0].partition("/")[0]
        order = f"{self._folder}/byteorder"
        if order in self._entries and self._record(order) != sys.byteorder.encode():
            raise Refused("it was written on a machine of another byte order")
        return read_pickle(io.BytesIO(self._record(names[0])), self._storage)

    def _record(self, name: str) -> bytearray:
        """The bytes of a record, which are in the file as they are."""
        entry = self._entries[name]
        self._file.seek(entry.header_offset + 26)
        name_size, extra_size = struct.unpack("<HH", self._file.read(4))
        self._file.seek(name_size + extra_size, os.SEEK_CUR)
        data = bytearray(entry.file_size)
        if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise Refused("it is truncated")
        return data

    def _storage(self, said: tuple[Any, ...]) -> Storage:
        if len(said) != 5:
            raise Refused("it is damaged: a storage is not described")
        dtype, key, count = _description(said)
        name = f"{self._folder}/data/{key}"
        if key not in self._storages:
            if name not in self._entries:
                raise Refused(f"the storage {key[:40]} is missing")
            data = self._record(name)
            if len(data) != count * dtype.itemsize:
                raise Refused(f"the storage {key[:40]} is not as large as it is said to be")
            self._storages[key] = Storage(_numbers(data, dtype), self._spend)
        found = self._storages[key]
        if found.data.dtype != dtype or found.data.numel() != count:
            raise Refused(f"the storage {key[:40]} is said to be two things")
        return found


def _read_legacy(file: IO[bytes]) -> Any:
    """Pickles (a number to know them by, a version, a machine, the content), then storages."""
    size = os.fstat(file.fileno()).st_size
    bounded: Any = _Bounded(file, size)
    if read_pickle(bounded, _none) != _LEGACY:
        raise Refused("it is not a file of torch.save")
    read_pickle(bounded, _none)
    read_pickle(bounded, _none)
    spend, claim = _spender(size), _spender(size, often=1, free=0)
    storages: dict[str, tuple[Storage, bytearray]] = {}

    def storage(said: tuple[Any, ...]) -> Storage:
        if len(said) != 6 or said[5] is not None:
            raise Refused("it is damaged, or older than torch 0.4: a storage is not described")
        dtype, key, count = _description(said)
        if key not in storages:
            claim(count * dtype.itemsize)
            data = bytearray(count * dtype.itemsize)
            storages[key] = Storage(_numbers(data, dtype), spend), data
        found = storages[key][0]
        if found.data.dtype != dtype or found.data.numel() != count:
            raise Refused(f"the storage {key[:40]} is said to be two things")
        return found

    content = read_pickle(bounded, storage)
    keys = read_pickle(bounded, _none)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise Refused("its storages are not those that it lists")
    for key in map(str, keys):
        found, data = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != found.data.numel() or file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise Refused("it is truncated")
    return content


class _Bounded:
    """A file that is not asked for more than it has: that would be allocated first."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))


def _description(said: tuple[Any, ...]) -> tuple[torch.dtype, str, int]:
    """Type, key and number of the elements of a storage."""
    kind, dtype, key, _, count = said[:5]
    whole = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 48
    if (
        kind != "storage"
        or not isinstance(dtype, torch.dtype)
        or not isinstance(key, str)
        or not whole
    ):
        raise Refused("it is damaged: a storage is not described")
    return dtype, key, count


def _numbers(data: bytearray, dtype: torch.dtype) -> torch.Tensor:
    """A tensor that shares the memory of bytes."""
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _spender(size: int, often: int = _OFTEN, free: int = _FREE) -> Callable[[int], None]:
    """Adds bytes up and refuses what no file of that size has a reason to ask for."""
    left = often * size + free

    def spend(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise Refused("its tensors are larger than the file")

    return spend


def _none(said: tuple[Any, ...]) -> Any:
    raise Refused("it is damaged: there is a storage where none belongs")
