"""The law of readers, and the hunt for a file that breaks it.

Whatever is in a file, its reader gives something of a size that the file accounts for, or raises an
error of ours: within seconds, in little memory, and leaving nothing behind.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mutations import MARK, bytes_changed, garbage

from sepprune_tp.errors import SepPruneError

SECONDS = 10  # for one file
MEMORY = 300 << 20  # bytes that a reader of a small file may need beyond what it gives
ADDRESSES = 3 << 30  # bytes that can be asked for in all
LONGEST = 4000  # characters of a message
COUNTS = (100, pytest.param(1000, marks=pytest.mark.slow))


class Hang(BaseException):
    """A reader took too long; no ``except Exception`` swallows it."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        name: For the table of counts.
        files: Valid files.
        read: Reads one, and gives the bytes that the result occupies.
        change: Makes a file wrong in what it says.
        starts: How such files begin.
        own: Its errors, where they are not this package's.
        file: Name that the file has to have.
    """

    name: str
    files: list[bytes]
    read: Callable[[Path], int]
    change: Callable[[bytes, Random], bytes]
    starts: tuple[bytes, ...] = ()
    own: tuple[type[Exception], ...] = (SepPruneError,)
    file: str = "file"


@dataclass
class Counts:
    """What came of a hunt."""

    inputs: int = 0
    loaded: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)


def hunt(reader: Reader, folder: Path, count: int, seed: int = 0) -> Counts:
    """Let a reader read its own files, and then many wrong ones.

    Args:
        reader: The reader.
        folder: An empty one.
        count: Number of wrong files.
        seed: Another seed is other files.
    """
    watched = folder / "scratch"
    watched.mkdir()
    for number, data in enumerate(reader.files):
        came = _attempt(reader, data, folder / reader.file)
        assert came == "loaded", f"valid file {number} of {reader.name}: {came}"
    counts, opened = Counts(), len(os.listdir("/proc/self/fd"))
    with _scratch(watched), _addresses():
        for number in range(count):
            data = wrong(reader, seed, number)
            came = _attempt(reader, data, folder / reader.file)
            left = [
                path for path in folder.rglob("*") if path not in (watched, folder / reader.file)
            ]
            if MARK.exists():
                came, _ = "something in the file was executed", MARK.rmdir()
            elif left:
                came = f"left behind: {left}"
                for path in left:
                    shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)
            counts.inputs += 1
            counts.loaded += came == "loaded"
            counts.refused += came == "refused"
            if came not in ("loaded", "refused"):
                counts.broken.append(f"{reader.name}, wrong(reader, {seed}, {number}): {came}")
    gc.collect()
    if len(os.listdir("/proc/self/fd")) > opened + 10:
        counts.broken.append(f"{reader.name} leaves files open")
    return counts


def check(reader: Reader, folder: Path, count: int) -> None:
    """Hunt, say what came of it, and fail if anything broke the law."""
    counts = hunt(reader, folder, count)
    print(
        f"FUZZ | {reader.name} | {counts.inputs} | {counts.loaded} | {counts.refused} | "
        f"{len(counts.broken)}"
    )
    assert not counts.broken, f"{len(counts.broken)} of {count}:\n" + "\n".join(counts.broken[:5])
    assert counts.refused > count / 20  # a negative control: the files are wrong


def wrong(reader: Reader, seed: int, number: int) -> bytes:
    """One wrong file."""
    random = Random(f"{reader.name} {seed} {number}")
    data, dice = random.choice(reader.files), random.random()
    if dice < 0.05:
        return garbage(random, reader.starts)
    if dice < 0.7:
        data = reader.change(data, random)
    return bytes_changed(data, random, reader.files) if dice > 0.6 else data


def _attempt(reader: Reader, data: bytes, path: Path) -> str:
    """Read one file: ``"loaded"``, ``"refused"``, or how the law was broken."""
    path.write_bytes(data)
    before = _memory_now()
    try:
        with _hurry():
            held = reader.read(path)
    except Hang:
        return f"took more than {SECONDS} s"
    except reader.own as error:
        return _refusal(error, before)
    except Exception:
        return "another error\n" + traceback.format_exc(limit=-4)
    if held > 64 * len(data) + (1 << 27):
        return f"gave {held} bytes of a file of {len(data)}"
    return _grown(before, held) or "loaded"


def _refusal(error: BaseException | None, before: int) -> str:
    if len(str(error)) > LONGEST:
        return f"said {len(str(error))} characters: {str(error)[:200]}"
    link = error
    while link is not None:
        exhausted = "allocate memory" in str(link) or "MemoryError" in str(link)
        if isinstance(link, MemoryError) or exhausted:
            return f"refused for want of memory alone: {str(error)[:600]}"
        link = link.__cause__ or link.__context__
    return _grown(before, 0) or "refused"


def _grown(before: int, held: int) -> str:
    peak = _memory("VmHWM")
    return f"needed {(peak - before) >> 20} MB" if peak - before > MEMORY + held else ""


def _memory(name: str) -> int:
    """A figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _memory_now() -> int:
    """Memory in use; the peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


@contextlib.contextmanager
def _hurry() -> Iterator[None]:
    def late(*args: Any) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def _addresses() -> Iterator[None]:
    """Let this process ask for little more memory than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESSES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Temporary files go where they are noticed if they stay."""
    old, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = old
