"""One process at a time works on a file: a lock that ends with the process that holds it.

The lock is the operating system's (``flock``) on a file of its own beside the file, which also says
who holds it. A lock file that a killed process left behind locks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sepprune_tp.errors import BusyError
from sepprune_tp.files import make_folder, named_failures

try:
    import fcntl
except ImportError:  # Windows: files are written, and nobody keeps others from writing too
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_with", "lock_of"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""Of file systems that lock nothing: work goes on as if it were alone."""


def lock_of(path: str | os.PathLike[str]) -> Path:
    """The file whose lock stands for a file."""
    target = Path(path).absolute()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def alone_with(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes, and other places of this one, from working on the same file.

    Args:
        path: The file; it need not exist. Its folder is made.

    Raises:
        BusyError: If another does already, with its process number and since when.
        WriteError: If the lock cannot be written.
    """
    if fcntl is None:
        yield
        return
    lock = lock_of(path)
    make_folder(lock.parent)
    with named_failures(lock):
        handle = _take(lock, Path(path))
    try:
        with named_failures(lock):
            told = {"pid": os.getpid(), "since": _now(), "command": _command()}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(told).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()  # while it is held: who opened it meanwhile looks again
        os.close(handle)


def _take(lock: Path, target: Path) -> int:
    """Open and lock the file that has the name now."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(handle)
            os.close(handle)
            raise BusyError(_busy(target, holder)) from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            os.close(handle)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        os.close(handle)  # its holder removed it after it was opened here


def _holder(handle: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(handle, 65536, 0))
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError):  # it has not said so yet
        return {}


def _busy(target: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder['pid']}" if "pid" in holder else "another process"
    since = f" since {holder['since']}" if "since" in holder else ""
    how = f" ({holder['command']})" if holder.get("command") else ""
    return (
        f"{who} works on {target}{since}{how}. Wait for it or end it, or give this run another "
        "output."
    )


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _command() -> str:
    """The command line of this process, as far as it fits into a line."""
    text = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    return text if len(text) <= 200 else f"{text[:197]}..."
