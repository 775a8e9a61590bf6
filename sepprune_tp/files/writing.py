"""Writing files, each whole or not at all: the one way in which this package writes.

A file is written beside its target under a temporary name, brought to the disk, and renamed. What
goes wrong on the way is one error of ours; the old file stays as it was and nothing is left behind,
also of a process that was killed while it wrote (the next one to write the same file sweeps).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sepprune_tp.errors import SepPruneError, WriteError

__all__ = [
    "check_writable",
    "is_running",
    "is_write_failure",
    "make_folder",
    "named_failures",
    "write_bytes",
    "write_tensors",
    "write_text",
    "written",
]

_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space, or write to another disk.",
    errno.EDQUOT: "the quota is used up. Free some space, or write to another disk.",
    errno.EROFS: "the file system is read-only. Write somewhere else.",
    errno.EACCES: "this user may not write there. Give another path, or change the permissions.",
    errno.EPERM: "this user may not write there. Give another path, or change the permissions.",
    errno.ENOTDIR: "a part of its path is a file and no folder. Give another path.",
    errno.EEXIST: "a part of its path is a file and no folder. Give another path.",
    errno.ENOENT: "its folder does not exist. Create it first.",
    errno.EISDIR: "it is a folder. Give a file name.",
    errno.ENAMETOOLONG: "the name is too long. Give a shorter one.",
    errno.EIO: "the disk reports an error. Write to another disk.",
    errno.EFBIG: "it is larger than files may be there. Write to another disk.",
}
_TEXTS = {
    "No space left": errno.ENOSPC,
    "Read-only file system": errno.EROFS,
    "Permission denied": errno.EACCES,
}
"""What libraries say that raise errors of their own."""
_LIBRARY = re.compile(r"PytorchStreamWriter|iostream error|Error : flush|System error", re.I)
"""Of libraries that do not even say why."""


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to; the file appears when the block ends well.

    Args:
        path: The file; its folder has to exist.

    Yields:
        An empty file beside it, for any library to write to.

    Raises:
        WriteError: If it cannot be written; errors of other kinds pass through.
    """
    target = Path(path)
    with named_failures(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        scratch = _scratch(target)
        try:
            with named_failures(target):  # while a full disk is full
                yield scratch
            _to_disk(scratch)
            os.chmod(scratch, _mode(target))
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
        _to_disk(target.parent)


@contextmanager
def named_failures(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the operating system and libraries raise when they cannot write into our error.

    Args:
        path: What is being written, for the message.

    Raises:
        WriteError: In place of such an error; others pass through.
    """
    target = Path(path)
    try:
        yield
    except SepPruneError:
        raise
    except Exception as error:
        number = _number(error, target.parent)
        if number is None:
            raise
        raise WriteError(_message(target, number, error)) from error


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> Path:
    """Write a file whole or not at all.

    Raises:
        WriteError: If it cannot be written.
    """
    with written(path) as scratch:
        scratch.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text as UTF-8, whole or not at all; as :func:`write_bytes`."""
    return write_bytes(path, text.encode())


def write_tensors(path: str | os.PathLike[str], content: Any) -> Path:
    """``torch.save`` whole or not at all; as :func:`write_bytes`."""
    import torch  # the command line starts without it

    held = io.BytesIO()
    torch.save(content, held)
    return write_bytes(path, held.getbuffer())


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, where they are missing.

    Raises:
        WriteError: If it cannot be made.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(_message(target, error.errno or 0, error)) from error
    return target


def check_writable(path: str | os.PathLike[str], make: bool = True) -> Path:
    """Make the folder of a file and see that it can be written, before work goes into it.

    Args:
        path: The file.
        make: Whether to make the folder; without, the lowest one that is there is tried.

    Raises:
        WriteError: If it cannot, or is a folder.
    """
    target = Path(path)
    if make:
        make_folder(target.parent)
    if target.is_dir():
        raise WriteError(f"Cannot write {target}: {_ADVICE[errno.EISDIR]}")
    folder = next(above for above in target.absolute().parents if above.exists())
    with named_failures(target), tempfile.TemporaryFile(dir=folder) as trial:
        trial.write(bytes(4096))
    return target


def is_write_failure(error: BaseException, path: str | os.PathLike[str]) -> bool:
    """Whether an error, of whatever library, is of writing a file: a full disk and the like."""
    return _number(error, Path(path).parent) is not None


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _scratch(target: Path) -> Path:
    """A new file beside the target; those that killed processes left are swept away."""
    left = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-\w+\.tmp")
    for path in target.parent.iterdir():
        found = left.fullmatch(path.name)
        if found and not is_running(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()
    prefix = f".{target.name}.{os.getpid()}-"
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=".tmp")
    os.close(handle)
    return Path(name)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise  # other numbers: this file system knows no such thing
    finally:
        os.close(handle)


def _mode(target: Path) -> int:
    """Permissions: those of the old file, else those of any new file."""
    with contextlib.suppress(OSError):
        return target.stat().st_mode & 0o7777
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return 0o666 & ~mask


def _number(error: BaseException, folder: Path) -> int | None:
    """The number of the error of writing behind an error; None if it is about something else."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _ADVICE:
            named = link.filename is None or Path(os.fsdecode(link.filename))
            elsewhere = named is not True and folder not in (named, *named.parents)
            return None if elsewhere else link.errno
        for text, number in _TEXTS.items():
            if text in str(link):
                return number
        link = link.__cause__ or link.__context__
    with contextlib.suppress(OSError):
        if _LIBRARY.search(str(error)) and shutil.disk_usage(folder).free < 1 << 16:
            return errno.ENOSPC
    return None


def _message(target: Path, number: int, error: BaseException) -> str:
    why = _ADVICE.get(number, f"{error}.")
    kept = " The file that is there stays as it was." if os.path.isfile(target) else ""
    return f"Cannot write {target}: {why}{kept}"
